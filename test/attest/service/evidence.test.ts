import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { defaultQuotePcrs, launchEvent, parseEar, type Reason, verifyEar } from "../../../attest/index.ts";
import { encodeSpkiPem, sha256, utf8 } from "../../../policy/index.ts";
import { servingEvents } from "../../support/evidence-maker.ts";
import type { SoftTpm } from "../../support/soft-tpm.ts";
import {
  OPERATOR,
  openVerifierBench,
  type ReportChanges,
  type VerifierBench,
  VIEWER,
} from "../../support/verifier-fixture.ts";

let bench: VerifierBench;
let tpm: SoftTpm;
let name = "";
let count = 0;
beforeAll(async () => {
  bench = await openVerifierBench();
});
afterAll(() => bench[Symbol.asyncDispose]());
beforeEach(async () => {
  count += 1;
  name = `m${count}`;
  tpm = await bench.enrol(name);
});
const show = async () => (await bench.ask("GET", `/v1/machines/${name}`, { token: VIEWER })).body;
const attest = (changes?: ReportChanges) => bench.attest(name, tpm, changes);
/** The machine's own TPM signs register values that its logs do not explain. */
const unexplained = { values: new Map(defaultQuotePcrs.map((pcr) => [pcr, new Uint8Array(32)])) };
const later = { clock: 200_000n, resetCount: 4 };
const other = (changes: string) => sha256(utf8(changes));

describe("evidence", () => {
  test("I9: of an honest machine is affirmed, and the answer is signed for this nonce", async () => {
    const challenge = await bench.challenge(name);
    const answer = await bench.send(challenge, await bench.report(tpm, challenge));
    expect(answer.body).toEqual({ tier: "affirming", machine: name, ear: expect.any(String) });
    const [jwk] = (await bench.ask("GET", "/v1/keys")).body.keys;
    const point = Buffer.concat([Buffer.from(jwk.x, "base64url"), Buffer.from(jwk.y, "base64url")]);
    const prefix = Buffer.from("3059301306072a8648ce3d020106082a8648ce3d03010703420004", "hex");
    const claims = await verifyEar(
      answer.body.ear,
      encodeSpkiPem(new Uint8Array(Buffer.concat([prefix, point]))),
      bench.time,
    );
    expect(claims.eat_nonce).toBe(Buffer.from(challenge.nonce).toString("base64url"));
    expect(parseEar(answer.body.ear).kid).toBe(jwk.kid);
  });

  test("I9: that was handed in before is called so to a viewer, and to nobody else", async () => {
    const first = await bench.challenge(name);
    const report = await bench.report(tpm, first);
    expect((await bench.send(first, report)).status).toBe(200);
    const { lastReport } = await show();
    for (const token of [undefined, VIEWER]) {
      const answer = await bench.send(await bench.challenge(name), report, token);
      expect(answer.status).toBe(422);
      const codes = (answer.body.error.reasons ?? []).map(({ code, item }: Reason) => `${code} ${item}`);
      expect(codes.includes(`replayed report ${lastReport}`)).toBe(token !== undefined);
    }
    const fresh = await bench.challenge(name);
    const other = await bench.send(await bench.challenge(name), await bench.report(tpm, fresh), VIEWER);
    expect(other.body.error.reasons.map(({ code }: Reason) => code)).not.toContain("replayed");
  });

  test("I9: shows its reasons to viewers and operators only", async () => {
    const [library, wrong] = ["library", "another library"] as const;
    const events = servingEvents().map((event) =>
      event.kind === library ? launchEvent(library, event.name, other(wrong)) : event,
    );
    for (const token of [undefined, VIEWER, OPERATOR]) {
      const challenge = await bench.challenge(name);
      const answer = await bench.send(challenge, await bench.report(tpm, challenge, { events }), token);
      expect(answer.body.tier).toBe("contraindicated");
      expect(answer.text.includes("event-mismatch")).toBe(token !== undefined);
      expect(answer.body.result === undefined).toBe(token === undefined);
    }
    expect(await show()).toMatchObject({ state: "contraindicated", tier: "contraindicated" });
  });

  test("I9: that does not verify is answered with a code, and with all reasons for a viewer", async () => {
    const challenge = await bench.challenge(name);
    const alone = await bench.send(challenge, await bench.report(tpm, challenge, unexplained));
    expect(alone).toMatchObject({
      status: 422,
      body: { error: { code: "evidence-refused", message: "the evidence does not verify" } },
    });
    expect(alone.body.error.reasons).toBeUndefined();
    expect((await attest(unexplained)).body.error.reasons.length).toBeGreaterThan(0);
  });

  test("I9: that the machine's own key signed and that does not verify makes it refused, and is kept", async () => {
    await attest();
    const answer = await attest(unexplained);
    expect(answer.status).toBe(422);
    const detail = await show();
    expect(detail).toMatchObject({ state: "refused", tier: "affirming", result: null });
    expect(detail.reasons[0]).toMatchObject({ code: "pcr-replay" });
    const reports = (await bench.ask("GET", `/v1/machines/${name}/reports`, { token: VIEWER })).body;
    expect(reports.map(({ tier }: { tier: string }) => tier)).toEqual(["refused", "affirming"]);
  });

  test("I9: that somebody else made changes nothing, is not kept, and is counted in the history", async () => {
    await attest();
    const before = await show();
    const stranger = await bench.authority.makeTpm();
    for (let at = 0; at < 3; at++) {
      const challenge = await bench.challenge(name);
      expect((await bench.send(challenge, await bench.report(stranger, challenge))).status).toBe(422);
      const nonsense = await bench.challenge(name);
      expect((await bench.send(nonsense, Buffer.from("nonsense"))).status).toBe(422);
    }
    expect(await show()).toEqual(before);
    await bench.service.sweep();
    const { events, ...after } = await show();
    expect(after).toEqual({ ...before, events: undefined });
    expect(events[0]).toMatchObject({ kind: "rejected", detail: { count: 6, code: expect.any(String) } });
  });

  test("I9: after a reboot is judged with a warning, and flagged", async () => {
    await attest();
    expect((await attest({ clock: later })).body.tier).toBe("warning");
    const { state, flags, events } = await show();
    expect({ state, flags }).toEqual({ state: "warning", flags: ["rebooted"] });
    expect(events.map(({ kind }: { kind: string }) => kind)).toEqual(["warning", "rebooted", "affirming", "enrolled"]);
  });

  test("I9: whose counters or audit log went back is refused, flagged, and not what the next one is compared with", async () => {
    await attest({ clock: later });
    expect((await attest()).status).toBe(422);
    expect(await show()).toMatchObject({ state: "refused", flags: ["rolled-back"] });
    const cut = await attest({ clock: later, asserted: { audit: { seq: 6, hash: other("head") } } });
    expect(cut.body.error.reasons).toContainEqual(expect.objectContaining({ code: "audit-rolled-back" }));
    expect((await attest({ clock: later })).status).toBe(200);
  });

  test("I9: an operator can begin the comparison anew, with nothing or with a stored report", async () => {
    await attest({ clock: later });
    await attest();
    const { lastReport } = await show();
    const accept = (body: object, token = OPERATOR) =>
      bench.ask("POST", `/v1/machines/${name}/continuity`, { token, body });
    expect((await accept({ accept: lastReport }, VIEWER)).status).toBe(403);
    const accepted = await accept({ accept: lastReport });
    expect(accepted.body.continuity).toMatchObject({ resetCount: 3 });
    expect(accepted.body.events[0]).toMatchObject({ kind: "continuity-accepted" });
    expect((await attest()).status).toBe(200);
    expect((await accept({ accept: "reset" })).body.continuity).toBeNull();
    expect((await attest({ clock: { resetCount: 0 } })).status).toBe(200);
    expect((await accept({ accept: "999999" })).status).toBe(404);
  });

  test("I9: that is false by itself cannot be accepted", async () => {
    await attest(unexplained);
    const { lastReport } = await show();
    const answer = await bench.ask("POST", `/v1/machines/${name}/continuity`, {
      token: OPERATOR,
      body: { accept: lastReport },
    });
    expect([answer.status, answer.body.error.code]).toEqual([422, "evidence-refused"]);
  });

  test("I9: with another library, policy or image is flagged as changed, with what it was", async () => {
    await attest();
    const events = servingEvents().map((event) =>
      event.kind === "policy" ? launchEvent("policy", "policy", other("policy 2")) : event,
    );
    await attest({ events });
    const { flags, events: history } = await show();
    expect(flags).toContain("changed");
    const change = history.find(({ kind }: { kind: string }) => kind === "changed");
    expect(change.detail).toMatchObject({ item: "policy", to: Buffer.from(other("policy 2")).toString("hex") });
  });

  test("I5: that tells of denied calls is flagged", async () => {
    await attest();
    await attest({ asserted: { violations: new Map([["ptrace", 2]]) } });
    expect(await show()).toMatchObject({ flags: ["violation"], violations: 2 });
  });

  test("I5: that tells of a device is flagged once, when it came and not when it went", async () => {
    const added = { what: "device", device: "usb:08e6:4433", change: "added" } as const;
    const counted = async () => {
      const { text } = await bench.ask("GET", "/metrics", { token: VIEWER });
      return Number(/machine_events_total\{kind="violation"\} (\d+)/.exec(text)?.[1]);
    };
    const before = await counted();
    await attest();
    await attest({ incidents: [{ ...added, change: "removed" }] });
    expect(await show()).toMatchObject({ state: "warning", flags: [], violations: 0 });
    await attest({ incidents: [added] });
    expect(await show()).toMatchObject({ state: "contraindicated", flags: ["violation"], violations: 1 });
    expect(await counted()).toBe(before + 1);
    await attest({ incidents: [added], asserted: { violations: new Map([["ptrace", 2]]) } });
    expect(await show()).toMatchObject({ flags: ["violation"], violations: 3 });
    expect(await counted()).toBe(before + 2);
  });

  test("I9: an operator clears flags, a viewer does not", async () => {
    await attest();
    await attest({ clock: later });
    const clear = (token: string) =>
      bench.ask("POST", `/v1/machines/${name}/flags`, { token, body: { clear: ["rebooted"] } });
    expect((await clear(VIEWER)).status).toBe(403);
    expect((await clear(OPERATOR)).body.flags).toEqual([]);
    expect((await show()).events[0]).toMatchObject({ kind: "flags-cleared", detail: { flags: "rebooted" } });
  });

  test("I9: that does not come makes the machine silent, which the next one ends", async () => {
    await attest();
    bench.later(300);
    await bench.service.sweep();
    expect((await show()).state).toBe("affirming");
    bench.later(1);
    await bench.service.sweep();
    await bench.service.sweep();
    const { state, events } = await show();
    expect(state).toBe("silent");
    expect(events.filter(({ kind }: { kind: string }) => kind === "silent")).toHaveLength(1);
    expect((await bench.ask("GET", "/metrics", { token: VIEWER })).text).toMatch(
      /ironclaw_verifier_machine_events_total\{kind="silent"\} [1-9]/,
    );
    await attest();
    expect((await show()).state).toBe("affirming");
  });

  test("I9: that comes many at a time is judged one by one: each follows the one before it", async () => {
    await attest();
    const challenges = await Promise.all(Array.from({ length: 8 }, () => bench.challenge(name)));
    const reports = await Promise.all(
      challenges.map((challenge, at) => bench.report(tpm, challenge, { clock: { clock: BigInt(200_000 + at) } })),
    );
    const answers = await Promise.all(
      challenges.map((challenge, at) => bench.send(challenge, reports[at] ?? new Uint8Array())),
    );
    expect(answers.map(({ status }) => status)).toEqual(Array.from({ length: 8 }, () => 200));
    expect((await show()).continuity.clock).toBe("200007");
    const backwards = await Promise.all(Array.from({ length: 4 }, () => bench.challenge(name)));
    const older = await Promise.all(
      backwards.map((challenge, at) => bench.report(tpm, challenge, { clock: { clock: BigInt(300_000 - at) } })),
    );
    const statuses = await Promise.all(
      backwards.map(async (challenge, at) => (await bench.send(challenge, older[at] ?? new Uint8Array())).status),
    );
    expect(statuses).toEqual([200, 422, 422, 422]);
  });

  test("I9: is kept as it came and judged again by what is in force then", async () => {
    const challenge = await bench.challenge(name);
    const report = await bench.report(tpm, challenge);
    await bench.send(challenge, report);
    const { lastReport } = await show();
    const at = `/v1/machines/${name}/reports/${lastReport}`;
    const raw = await bench.service.app.inject({
      method: "GET",
      url: at,
      headers: { authorization: `Bearer ${VIEWER}` },
    });
    expect(new Uint8Array(raw.rawPayload)).toEqual(report);
    expect(raw.headers).toMatchObject({
      ...{ "content-type": "application/cmw+cbor", "ironclaw-nonce": Buffer.from(challenge.nonce).toString("base64") },
      ...{ "ironclaw-bank": "sha256", "ironclaw-pcrs": challenge.pcrs.join(",") },
    });
    const stored = (await bench.ask("GET", `${at}/result`, { token: VIEWER })).body;
    expect(stored).toEqual((await show()).result);
    bench.later(86_400);
    const again = await bench.ask("POST", `${at}/appraisal`, { token: VIEWER });
    expect(again.body).toEqual(stored);
    expect((await bench.ask("GET", `/v1/machines/${name}/reports/999`, { token: VIEWER })).status).toBe(404);
  });

  test("I9: in another machine's name is not found under it", async () => {
    await attest();
    const { lastReport } = await show();
    await bench.enrol(`${name}-neighbour`);
    const asked = await bench.ask("GET", `/v1/machines/${name}-neighbour/reports/${lastReport}`, { token: VIEWER });
    expect(asked.status).toBe(404);
  });

  test("the oldest go when there are more than are kept, and the last one never by its age", async () => {
    await using small = await openVerifierBench({
      config: (config) => ({
        ...config,
        retention: { ...config.retention, reportsPerMachine: 2, eventsPerMachine: 3, days: 1 },
      }),
    });
    const which = await small.enrol("a");
    for (let at = 0; at < 4; at++) await small.attest("a", which, { clock: { resetCount: 4 + at } });
    await small.service.sweep();
    const reports = async () => (await small.ask("GET", "/v1/machines/a/reports", { token: VIEWER })).body.length;
    expect(await reports()).toBe(2);
    expect((await small.ask("GET", "/v1/machines/a", { token: VIEWER })).body.events).toHaveLength(3);
    small.later(2 * 86_400);
    await small.service.sweep();
    expect(await reports()).toBe(1);
    expect((await small.ask("GET", "/v1/machines/a", { token: VIEWER })).body.result).not.toBeNull();
  });
});
