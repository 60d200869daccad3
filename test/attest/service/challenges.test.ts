import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { ChallengeBook } from "../../../attest/service/challenges.ts";
import type { SoftTpm } from "../../support/soft-tpm.ts";
import {
  base64,
  OPERATOR,
  openVerifierBench,
  randomNonce,
  type VerifierBench,
  VIEWER,
} from "../../support/verifier-fixture.ts";

const rules = { bank: "sha256", pcrs: [0, 13], ttlSeconds: 60, perMachine: 2, perPeer: 3, open: 5 } as const;

function book() {
  const clock = { time: 0, set: 0 };
  const made = new ChallengeBook(rules, {
    ...{ now: () => new Date(clock.time + clock.set), monotonic: () => clock.time, random: randomNonce },
  });
  return { made, clock };
}

describe("the book of challenges", () => {
  test("I9: a nonce is 32 bytes, for one machine, bank and selection, and each is another", () => {
    const { made } = book();
    const [one, two] = [made.issue("a", "p"), made.issue("b", "p")];
    expect(one.challenge).toMatchObject({ bank: "sha256", pcrs: [0, 13] });
    expect(one.challenge.nonce).toHaveLength(32);
    expect(two.challenge.nonce).not.toEqual(one.challenge.nonce);
    expect(made.take(two.challenge.nonce)?.machine).toBe("b");
  });

  test("I9: a nonce is given out once and taken once", () => {
    const { made } = book();
    const { challenge } = made.issue("a", "p");
    expect(made.take(challenge.nonce)).toMatchObject({ machine: "a" });
    expect(made.take(challenge.nonce)).toBeNull();
    expect(made.take(randomNonce())).toBeNull();
  });

  test("I9: at the end of its time a nonce is worth nothing, and one moment before it is", () => {
    const { made, clock } = book();
    const [first, second] = [made.issue("a", "p"), made.issue("a", "p")];
    clock.time = 59_999;
    expect(made.take(first.challenge.nonce)).not.toBeNull();
    clock.time = 60_000;
    expect(made.take(second.challenge.nonce)).toBeNull();
  });

  test("I10: a peer has only so many open, for a machine and in all, and gets room again by answers and by time", () => {
    const { made, clock } = book();
    const first = made.issue("a", "p");
    made.issue("a", "p");
    expect(() => made.issue("a", "p")).toThrow(expect.objectContaining({ code: "too-many" }));
    made.issue("b", "p");
    expect(() => made.issue("c", "p")).toThrow(expect.objectContaining({ code: "too-many" }));
    made.take(first.challenge.nonce);
    made.issue("c", "p");
    expect(made.size).toBe(3);
    clock.time = 60_000;
    expect(made.size).toBe(0);
    for (const peer of ["p", "q"]) made.issue("a", peer);
  });

  test("I10: a stranger who asks in a machine's name does not lock it out", () => {
    const { made } = book();
    for (let at = 0; at < 2; at++) made.issue("a", "stranger");
    expect(() => made.issue("a", "stranger")).toThrow();
    expect(made.issue("a", "its host").machine).toBe("a");
  });

  test("I9: a clock that is set back brings no nonce back, and one that is set forward ends what it says has ended", () => {
    const { made, clock } = book();
    const [first, second] = [made.issue("a", "p"), made.issue("a", "p")];
    clock.set = 60_000;
    expect(made.take(first.challenge.nonce)).toBeNull();
    clock.set = -3_600_000;
    clock.time = 60_000;
    expect(made.take(second.challenge.nonce)).toBeNull();
    expect(made.size).toBe(0);
  });

  test("I9: what was given out behind a step back ends in its own time, and hides nothing older that has ended", () => {
    const { made, clock } = book();
    const old = made.issue("a", "p");
    clock.set = -3_600_000;
    clock.time = 30_000;
    const young = made.issue("a", "p");
    clock.time = 60_000;
    expect(made.take(old.challenge.nonce)).toBeNull();
    expect(made.take(young.challenge.nonce)).not.toBeNull();
  });

  test("I10: the book has an end, and whoever has most of a full one pays for the next", () => {
    const { made } = book();
    const first = made.issue("a", "greedy");
    const others = [made.issue("a", "p"), made.issue("b", "greedy"), made.issue("c", "greedy"), made.issue("a", "q")];
    const next = made.issue("a", "another");
    expect(made.size).toBe(5);
    expect(made.take(first.challenge.nonce)).toBeNull();
    for (const { challenge } of [...others, next]) expect(made.take(challenge.nonce)).not.toBeNull();
  });

  test("I10: many peers with one each do not shut the book", () => {
    const { made } = book();
    for (let at = 0; at < 20; at++) made.issue("a", `peer ${at}`);
    expect(made.size).toBe(5);
    const { challenge } = made.issue("a", "a machine's host");
    expect(made.take(challenge.nonce)).not.toBeNull();
  });
});

describe("a nonce over the interface", () => {
  let bench: VerifierBench;
  let tpm: SoftTpm;
  beforeAll(async () => {
    bench = await openVerifierBench();
    tpm = await bench.enrol("m1");
  });
  afterAll(() => bench[Symbol.asyncDispose]());
  const post = (headers: Record<string, string>, payload: Buffer | string = "") =>
    bench.service.app.inject({ method: "POST", url: "/v1/evidence", headers, payload });
  const cmw = { "content-type": "application/cmw+cbor" };

  test("I9: answers once; the same report again is refused", async () => {
    const challenge = await bench.challenge("m1");
    const report = await bench.report(tpm, challenge);
    expect((await bench.send(challenge, report)).status).toBe(200);
    const again = await bench.send(challenge, report);
    expect([again.status, again.body.error.code]).toEqual([410, "nonce-over"]);
  });

  test("I9: an old report under a fresh nonce is refused, and changes nothing about the machine", async () => {
    const old = await bench.challenge("m1");
    const report = await bench.report(tpm, old);
    await bench.send(old, report);
    const before = (await bench.ask("GET", "/v1/machines/m1", { token: VIEWER })).body;
    const answer = await bench.send(await bench.challenge("m1"), report, VIEWER);
    expect(answer.status).toBe(422);
    const codes = answer.body.error.reasons.map(({ code }: { code: string }) => code);
    expect(codes).toEqual(expect.arrayContaining(["extra-data", "claim"]));
    const after = (await bench.ask("GET", "/v1/machines/m1", { token: VIEWER })).body;
    expect(after).toEqual(before);
  });

  test("I9: is worth nothing after its time", async () => {
    const challenge = await bench.challenge("m1");
    const report = await bench.report(tpm, challenge);
    bench.later(60);
    expect((await bench.send(challenge, report)).body.error.code).toBe("nonce-over");
  });

  test("I9: that another machine was given is refused, although its report is true", async () => {
    const other = await bench.enrol("m2");
    const challenge = await bench.challenge("m2");
    const answer = await bench.send(challenge, await bench.report(tpm, challenge), VIEWER);
    expect(answer.body.error.reasons).toContainEqual(expect.objectContaining({ code: "ak-not-enrolled" }));
    expect((await bench.attest("m2", other)).status).toBe(200);
  });

  test("I9: another bank or selection than it asked for is refused", async () => {
    for (const change of [{ bank: "sha384" }, { pcrs: [0, 1, 2, 13] }] as const) {
      const challenge = await bench.challenge("m1");
      const answer = await bench.send(challenge, await bench.report(tpm, { ...challenge, ...change }), VIEWER);
      expect(answer.body.error.reasons).toContainEqual(expect.objectContaining({ code: "pcr-selection" }));
    }
  });

  test.each<[string, (nonce: string) => Promise<{ statusCode: number }>, number]>([
    ["a malformed body", (nonce) => post({ ...cmw, "ironclaw-nonce": nonce }, "nonsense"), 422],
    ["an empty body", (nonce) => post({ ...cmw, "ironclaw-nonce": nonce }), 422],
    [
      "a body of another media type",
      (nonce) => post({ "content-type": "application/json", "ironclaw-nonce": nonce }, "{}"),
      415,
    ],
    ["a body without a media type", (nonce) => post({ "ironclaw-nonce": nonce }, "x"), 415],
    [
      "a body that is too large",
      (nonce) => post({ ...cmw, "ironclaw-nonce": nonce }, Buffer.alloc((6 << 20) + 1)),
      413,
    ],
    [
      "a credential that is nobody's",
      (nonce) => post({ ...cmw, "ironclaw-nonce": nonce, authorization: "Bearer nobodys-token-at-all" }, "x"),
      401,
    ],
    [
      "another site's page",
      (nonce) => post({ ...cmw, "ironclaw-nonce": nonce, "sec-fetch-site": "cross-site" }, "x"),
      403,
    ],
  ])("I9: is spent by %s", async (_, spend, status) => {
    const challenge = await bench.challenge("m1");
    const report = await bench.report(tpm, challenge);
    expect((await spend(base64(challenge.nonce))).statusCode).toBe(status);
    expect((await bench.send(challenge, report)).body.error.code).toBe("nonce-over");
  });

  test("I9: of a service that has started again since is over", async () => {
    const challenge = await bench.challenge("m1");
    const report = await bench.report(tpm, challenge);
    await bench.restart();
    expect((await bench.send(challenge, report)).body.error.code).toBe("nonce-over");
    expect((await bench.attest("m1", tpm)).status).toBe(200);
  });

  test("I9: that is none is malformed", async () => {
    for (const nonce of ["", "AAAA", "*".repeat(44), base64(randomNonce()).replace(/.=$/, "//")]) {
      expect((await post({ ...cmw, "ironclaw-nonce": nonce }, "x")).statusCode).toBe(400);
    }
    expect((await post(cmw, "x")).statusCode).toBe(400);
  });

  test("tells nobody which names are enrolled, but viewers and operators", async () => {
    const strange = await bench.challenge("nobody-by-that-name");
    const refused = await bench.send(strange, await bench.report(tpm, strange));
    const known = await bench.challenge("m2");
    const alike = await bench.send(known, await bench.report(tpm, known));
    expect(refused).toMatchObject({ status: 422, text: alike.text });
    for (const token of [VIEWER, OPERATOR]) {
      const asked = await bench.ask("POST", "/v1/challenges", { token, body: { machine: "nobody-by-that-name" } });
      expect([asked.status, asked.body.error.code]).toEqual([404, "not-found"]);
    }
  });

  test("I10: is not given out without end", async () => {
    const ask = () => bench.ask("POST", "/v1/challenges", { body: { machine: "m9" } });
    const answers = await Promise.all(Array.from({ length: 12 }, ask));
    const refused = answers.filter(({ status }) => status === 429);
    expect(refused).toHaveLength(4);
    expect(refused[0]?.headers["retry-after"]).toBe("5");
  });
});
