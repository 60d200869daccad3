import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { enrolAtService, openVerifierClient } from "../../../attest/service/index.ts";
import { makeAuthority, type SoftTpm } from "../../support/soft-tpm.ts";
import {
  base64,
  beginOver,
  enrolmentToken,
  enrolOver,
  finishOver,
  OPERATOR,
  openVerifierBench,
  type VerifierBench,
  VIEWER,
} from "../../support/verifier-fixture.ts";

let bench: VerifierBench;
let tpm: SoftTpm;
beforeAll(async () => {
  bench = await openVerifierBench();
  tpm = await bench.enrol("m1");
});
afterAll(() => bench[Symbol.asyncDispose]());
const show = async (name: string) => (await bench.ask("GET", `/v1/machines/${name}`, { token: VIEWER })).body;
const begin = async (name: string, which: SoftTpm) =>
  beginOver(bench, { token: await enrolmentToken(bench, name), name }, which);

describe("an enrolment over the interface", () => {
  test("I9: pins AK and EK, and the class of the authority", async () => {
    expect(await show("m1")).toMatchObject({
      ...{ name: "m1", state: "enrolled", assurance: "provider-ek", flags: [], lastSeen: null, tier: null },
      enrolment: { ekName: tpm.ekName, assurance: "provider-ek" },
      events: [{ kind: "enrolled", detail: { assurance: "provider-ek" } }],
    });
  });

  test("I9: a token is for one try, also when that fails", async () => {
    const token = await enrolmentToken(bench, "m2");
    const stranger = await makeAuthority().makeTpm();
    const refused = await beginOver(bench, { token, name: "m2" }, stranger);
    expect([refused.status, refused.body.error.code]).toEqual([422, "endorsement-refused"]);
    expect(refused.body.error).toEqual({ code: "endorsement-refused", message: "the endorsement does not verify" });
    const again = await beginOver(bench, { token, name: "m2" }, await bench.authority.makeTpm());
    expect([again.status, again.body.error.code]).toEqual([401, "token-refused"]);
  });

  test("I9: a machine whose EK stands under six authorities is enrolled with theirs in any order, and what is not above it left out", async () => {
    const authority = makeAuthority(6);
    await using deep = await openVerifierBench({ authority });
    const other = await authority.makeTpm();
    const order = {
      ...{ name: "m1", token: await enrolmentToken(deep, "m1"), ekCertificate: null },
      ...{ issuers: [...authority.issuers.toReversed(), tpm.ekCertificate] },
      client: openVerifierClient({ to: `http://${await deep.service.listen()}`, ca: null }),
      control: {
        endorsement: async () => ({
          ...{ ekCertificates: [base64(other.ekCertificate)], ekProfile: "L-1", akPublic: base64(other.ak.publicArea) },
        }),
        activate: async (blob: Uint8Array, secret: Uint8Array) => other.activate(blob, secret),
      },
    };
    expect(authority.issuers.length).toBe(6);
    expect(await enrolAtService(order)).toMatchObject({ name: "m1", ekName: other.ekName, assurance: "provider-ek" });
  });

  test("I10: eight certificates are looked at, nine are malformed, and a malformed request spends no token", async () => {
    const other = await bench.authority.makeTpm();
    const above = Uint8Array.fromBase64(bench.authority.anchor.pem.replaceAll(/-----[A-Z ]+-----|\s/g, ""));
    const token = await enrolmentToken(bench, "eight");
    const beginWith = (count: number) => {
      const ekCertificates = [other.ekCertificate, ...new Array<Uint8Array>(count - 1).fill(above)].map(base64);
      const body = { token, name: "eight", ekCertificates, akPublic: base64(other.ak.publicArea) };
      return bench.ask("POST", "/v1/enrolments", { body });
    };
    const refused = await beginWith(9);
    expect([refused.status, refused.body.error.code]).toEqual([400, "malformed"]);
    const begun = await beginWith(8);
    expect(begun.status).toBe(201);
    expect((await finishOver(bench, begun.body, other)).status).toBe(200);
  });

  test("I9: a token is for its name and its time", async () => {
    const other = await bench.authority.makeTpm();
    const token = await enrolmentToken(bench, "m2");
    expect((await beginOver(bench, { token, name: "m3" }, other)).body.error.code).toBe("token-refused");
    expect((await beginOver(bench, { token, name: "m2" }, other)).body.error.code).toBe("token-refused");
    const old = await enrolmentToken(bench, "m2", 5);
    bench.later(5);
    expect((await beginOver(bench, { token: old, name: "m2" }, other)).body.error.code).toBe("token-refused");
    expect((await beginOver(bench, { token: "never-made", name: "m2" }, other)).body.error.code).toBe("token-refused");
  });

  test("a token that would live for longer than the configuration says is not made", async () => {
    const asked = await bench.ask("POST", "/v1/enrolment-tokens", {
      token: OPERATOR,
      body: { name: "m2", ttlSeconds: 700_000 },
    });
    expect([asked.status, asked.body.error.message]).toEqual([400, "ttlSeconds: at most 604800"]);
  });

  test("I9: one answer counts, right or wrong, and only in time", async () => {
    const other = await bench.authority.makeTpm();
    const wrong = (await begin("m2", other)).body;
    const guess = await bench.ask("POST", `/v1/enrolments/${wrong.enrolment}`, {
      body: { secret: base64(Buffer.alloc(32)) },
    });
    expect([guess.status, guess.body.error.code]).toEqual([422, "credential-refused"]);
    expect((await finishOver(bench, wrong, other)).body.error.code).toBe("enrolment-over");
    const malformed = (await begin("m2", other)).body;
    expect((await bench.ask("POST", `/v1/enrolments/${malformed.enrolment}`, { body: { answer: "" } })).status).toBe(
      400,
    );
    expect((await finishOver(bench, malformed, other)).body.error.code).toBe("enrolment-over");
    const late = (await begin("m2", other)).body;
    bench.later(120);
    expect((await finishOver(bench, late, other)).body.error.code).toBe("enrolment-over");
  });

  test("I9: a clock that is set back brings no enrolment back", async () => {
    const other = await bench.authority.makeTpm();
    const late = (await begin("m2", other)).body;
    const { time } = bench;
    bench.time = new Date(time.getTime() - 3_600_000);
    bench.later(120);
    expect((await finishOver(bench, late, other)).body.error.code).toBe("enrolment-over");
    bench.time = time;
  });

  test("I9: an EK whose TPM does not hold the AK gives nothing away: the credential does not open", async () => {
    const [ekOwner, akOwner] = [await bench.authority.makeTpm(), await bench.authority.makeTpm()];
    const mixed = { ...ekOwner, ak: akOwner.ak };
    const begun = (await begin("m2", mixed)).body;
    expect(() =>
      akOwner.activate(Buffer.from(begun.credentialBlob, "base64"), Buffer.from(begun.encryptedSecret, "base64")),
    ).toThrow();
  });

  test("I9: the same TPM under its own name again changes nothing", async () => {
    const before = await show("m1");
    const again = await enrolOver(bench, "m1", tpm);
    expect(again).toMatchObject({ status: 200, body: { name: "m1", ekName: tpm.ekName } });
    const after = await show("m1");
    expect(after.enrolment).toEqual(before.enrolment);
    expect(after.events[0].kind).toBe("enrolled-again");
  });

  test("I9: a name stays with its TPM: another one is refused", async () => {
    const answer = await enrolOver(bench, "m1", await bench.authority.makeTpm());
    expect([answer.status, answer.body.error.code]).toEqual([409, "name-taken"]);
    expect((await show("m1")).enrolment.ekName).toBe(tpm.ekName);
    expect((await show("m1")).flags).toEqual([]);
  });

  test("I9: the same EK with another AK is refused", async () => {
    const answer = await enrolOver(bench, "m1", await tpm.withAnotherKey());
    expect([answer.status, answer.body.error.code]).toEqual([409, "key-changed"]);
    expect((await show("m1")).enrolment.ekName).toBe(tpm.ekName);
  });

  test("I9: a TPM under a second name is a clone: refused, and whoever has name or TPM is flagged", async () => {
    const other = await bench.enrol("m4");
    const second = await enrolOver(bench, "m5", tpm);
    expect([second.status, second.body.error.code]).toEqual([409, "clone"]);
    expect((await show("m1")).flags).toEqual(["clone"]);
    expect((await bench.ask("GET", "/v1/machines/m5", { token: VIEWER })).status).toBe(404);
    expect((await enrolOver(bench, "m4", tpm)).body.error.code).toBe("clone");
    expect(await show("m4")).toMatchObject({ flags: ["clone"], enrolment: { ekName: other.ekName } });
    expect((await show("m4")).events[0]).toMatchObject({ kind: "clone", detail: { other: "m1" } });
  });

  test("I9: showing somebody's certificate flags nobody: the proof comes first", async () => {
    const victim = await bench.enrol("m6");
    const liar = await bench.authority.makeTpm();
    const begun = (await begin("m7", { ...victim, ak: liar.ak })).body;
    await bench.ask("POST", `/v1/enrolments/${begun.enrolment}`, { body: { secret: base64(Buffer.alloc(32)) } });
    expect((await show("m6")).flags).toEqual([]);
  });

  test("a retired machine's name and TPM are free", async () => {
    const old = await bench.enrol("m8");
    expect((await bench.ask("DELETE", "/v1/machines/m8", { token: OPERATOR })).status).toBe(204);
    expect((await bench.ask("GET", "/v1/machines/m8", { token: VIEWER })).status).toBe(404);
    expect((await enrolOver(bench, "m9", old)).status).toBe(200);
    expect((await enrolOver(bench, "m8", await bench.authority.makeTpm())).status).toBe(200);
    expect((await show("m8")).events).toHaveLength(1);
  });

  test("I10: only so many are open at a time", async () => {
    await using small = await openVerifierBench({
      config: (config) => ({ ...config, enrolment: { ...config.enrolment, open: 1 } }),
    });
    const which = await small.authority.makeTpm();
    const first = async () => beginOver(small, { token: await enrolmentToken(small, "a"), name: "a" }, which);
    expect((await first()).status).toBe(201);
    expect((await first()).status).toBe(429);
    small.later(120);
    expect((await first()).status).toBe(201);
  });

  test("I11: an unused token survives a restart, an open enrolment does not", async () => {
    const which = await bench.authority.makeTpm();
    const token = await enrolmentToken(bench, "m10");
    const open = (await begin("m11", which)).body;
    await bench.restart();
    expect((await finishOver(bench, open, which)).body.error.code).toBe("enrolment-over");
    expect((await beginOver(bench, { token, name: "m10" }, which)).status).toBe(201);
  });
});
