import { once } from "node:events";
import { type AddressInfo, connect } from "node:net";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { encodeEvidence, encodePcrs, launchEvent, parseEvidence, parsePcrs } from "../../../attest/index.ts";
import { openSqliteStore } from "../../../attest/service/index.ts";
import { Slots } from "../../../attest/service/slots.ts";
import type { VerifierStore } from "../../../attest/service/store.ts";
import { referenceEvents, servingEvents } from "../../support/evidence-maker.ts";
import type { SoftTpm } from "../../support/soft-tpm.ts";
import {
  type Answer,
  base64,
  OPERATOR,
  openVerifierBench,
  type VerifierBench,
  VIEWER,
} from "../../support/verifier-fixture.ts";

const hostile = new URL("../../support/verifier-worker-hostile.ts", import.meta.url);
const manyBytes = { reportsPerMachine: 10, bytesPerMachine: 1 << 30, eventsPerMachine: 100 };
let bench: VerifierBench;
let tpm: SoftTpm;
beforeAll(async () => {
  bench = await openVerifierBench();
  tpm = await bench.enrol("m1");
});
afterAll(() => bench[Symbol.asyncDispose]());
const show = async (name = "m1", which = bench) =>
  (await which.ask("GET", `/v1/machines/${name}`, { token: VIEWER })).body;
const statusesOf = (answers: readonly Answer[]) => answers.map(({ status }) => status);

/** Settles with the answers of that status once there are so many of them, though the others never come. */
function soMany(answers: readonly Promise<Answer>[], status: number, count: number): Promise<readonly Answer[]> {
  const found: Answer[] = [];
  return new Promise((settle, reject) => {
    for (const answer of answers)
      answer.then((came) => {
        if (came.status === status) found.push(came);
        if (found.length === count) settle(found);
      }, reject);
  });
}
/** A service whose judging threads never end. */
const openStuck = (options: Partial<Parameters<typeof openVerifierBench>[0]> = {}, workers = 1) =>
  openVerifierBench({
    ...{ dependencies: { workerProgram: hostile } },
    config: (config) => ({
      ...{ ...config, challenge: { ...config.challenge, perMachine: 40 } },
      limits: { ...config.limits, workers, judgeSeconds: 600, drainSeconds: 1 },
    }),
    ...options,
  });

describe("a hostile machine", () => {
  test("I10: that counts beyond every number does not take the fleet away from those who look at it", async () => {
    const violations = new Map([
      ["ptrace", Number.MAX_SAFE_INTEGER],
      ["bpf", Number.MAX_SAFE_INTEGER],
    ]);
    expect((await bench.attest("m1", tpm, { asserted: { violations } })).status).toBe(200);
    const fleet = await bench.ask("GET", "/v1/machines", { token: VIEWER });
    expect([fleet.status, fleet.body[0].violations]).toEqual([200, Number.MAX_SAFE_INTEGER]);
    const { detail } = (await show()).events.find(({ kind }: { kind: string }) => kind === "violation");
    expect(detail).toEqual({ count: Number.MAX_SAFE_INTEGER });
    expect((await bench.attest("m1", tpm, { asserted: { violations } })).status).toBe(200);
  });

  test("I10: whose log has hundreds of caps with long names does not hide its page", async () => {
    const which = await bench.enrol("m2");
    const caps = Array.from({ length: 240 }, (_, at) =>
      launchEvent("cap", `${at} ${"x".repeat(4000)}`, new Uint8Array(32)),
    );
    for (const [launch, status] of [
      ["serving", 422],
      ["capping", 200],
    ] as const) {
      const events = [...servingEvents(), ...caps];
      expect((await bench.attest("m2", which, { events, launch })).status).toBe(status);
      const page = await bench.ask("GET", "/v1/machines/m2", { token: VIEWER });
      expect([page.status, page.body.state]).toEqual([200, status === 200 ? "contraindicated" : "refused"]);
    }
  });

  test("I10: makes at most 64 codes of a stored report's row, and its verdict can be signed whatever they are", async () => {
    const which = await bench.enrol("m3");
    const reasons = Array.from({ length: 200 }, (_, at) => ({
      ...{ code: at % 2 === 0 ? `own-code-${at}` : `\u0000${at}`.repeat(50), item: "", expected: "", got: "" },
    }));
    const events = [...referenceEvents(), launchEvent("cap", "refused", new Uint8Array(32))];
    const asserted = { reasons, tokens: [], keys: [], shims: [] };
    const answer = await bench.attest("m3", which, { events, launch: "refused", asserted });
    expect([answer.status, typeof answer.body.ear]).toEqual([200, "string"]);
    const [row] = (await bench.ask("GET", "/v1/machines/m3/reports", { token: VIEWER })).body;
    expect(row.codes).toHaveLength(64);
    expect(row.codes.every((code: string) => /^[a-z0-9-]{1,71}$/.test(code))).toBe(true);
  });

  test("I11: keeps at most so many bytes of reports, and always the last one", async () => {
    await using small = await openVerifierBench({
      config: (config) => ({ ...config, retention: { ...config.retention, bytesPerMachine: 1 } }),
    });
    const which = await small.enrol("a");
    for (let at = 0; at < 3; at++) await small.attest("a", which);
    expect((await small.ask("GET", "/v1/machines/a/reports", { token: VIEWER })).body).toHaveLength(1);
    expect((await show("a", small)).result).not.toBeNull();
  });

  test("I9: a launch that did not serve leaves the audit log's head where it was, also when an operator accepts it", async () => {
    const which = await bench.enrol("m4");
    await bench.attest("m4", which);
    const { continuity: kept } = await show("m4");
    const events = [...referenceEvents(), launchEvent("cap", "refused", new Uint8Array(32))];
    const asserted = { tokens: [], keys: [], shims: [] };
    expect((await bench.attest("m4", which, { events, launch: "refused", asserted })).status).toBe(200);
    const accept = (await show("m4")).lastReport;
    const accepted = await bench.ask("POST", "/v1/machines/m4/continuity", { token: OPERATOR, body: { accept } });
    expect(accepted.body.continuity.audit).toEqual(kept.audit);
  });
});

describe("a hostile carrier", () => {
  test("I9: that changes what the quote does not sign, or asks for something else, makes no machine look broken", async () => {
    const which = await bench.enrol("c1");
    await bench.attest("c1", which);
    const before = await show("c1");
    const values = new Map([[0, new Uint8Array(32)]]);
    const section = (bytes: Uint8Array, pcrs: Uint8Array) => encodeEvidence({ ...parseEvidence(bytes), pcrs });
    const first = (bytes: Uint8Array) => parsePcrs(parseEvidence(bytes).pcrs).values;
    const attacks: readonly [string, (bytes: Uint8Array) => Uint8Array, object][] = [
      [
        "pcr-digest",
        (bytes) => section(bytes, encodePcrs({ bank: "sha256", values: new Map([...first(bytes), ...values]) })),
        {},
      ],
      ["pcr-section", (bytes) => section(bytes, encodePcrs({ bank: "sha256", values })), {}],
      ["ERR_CBOR_MALFORMED", (bytes) => section(bytes, Uint8Array.of(0xff)), {}],
      ["pcr-selection", (bytes) => bytes, { bank: "sha384" }],
      ["pcr-selection", (bytes) => bytes, { pcrs: [0, 13] }],
    ];
    for (const [code, change, asked] of attacks) {
      const challenge = await bench.challenge("c1");
      const report = await bench.report(which, { ...challenge, ...asked });
      const answer = await bench.send(challenge, change(report), VIEWER);
      expect(answer.status, code).toBe(422);
      expect(answer.body.error.reasons).toContainEqual(expect.objectContaining({ code }));
    }
    expect(await show("c1")).toEqual(before);
  });

  test("I9: whose old report meets a fresh nonce of its machine changes nothing", async () => {
    const which = await bench.enrol("c2");
    const old = await bench.challenge("c2");
    const report = await bench.report(which, old);
    await bench.send(old, report);
    const before = await show("c2");
    expect((await bench.send(await bench.challenge("c2"), report)).status).toBe(422);
    expect(await show("c2")).toEqual(before);
  });
});

describe("a stranger", () => {
  test("I9: who sends again and again does not push a machine's history out", async () => {
    await using small = await openVerifierBench({
      config: (config) => ({ ...config, retention: { ...config.retention, eventsPerMachine: 4 } }),
    });
    const which = await small.enrol("a");
    await small.attest("a", which, { asserted: { violations: new Map([["ptrace", 1]]) } });
    const kinds = async () => (await show("a", small)).events.map(({ kind }: { kind: string }) => kind);
    const before = await kinds();
    for (let at = 0; at < 6; at++) {
      for (let count = 0; count < 3; count++) await small.send(await small.challenge("a"), Buffer.from("nonsense"));
      await small.service.sweep();
    }
    expect(await kinds()).toEqual(["rejected", ...before]);
    expect((await show("a", small)).events[0].detail).toEqual({ count: 18, code: "ERR_EVIDENCE_MALFORMED" });
    await small.attest("a", which, { clock: { resetCount: 4 } });
    await small.send(await small.challenge("a"), Buffer.from("nonsense"));
    await small.service.sweep();
    expect(await kinds()).toEqual(["rejected", "warning", "rebooted", ...before]);
  });

  test("I10: takes neither a judging thread nor a turn of the machine: his reports are refused while all are busy", async () => {
    await using stuck = await openStuck();
    const which = await stuck.enrol("hostile-3");
    const own = await stuck.challenge("hostile-3");
    const held = stuck.send(own, await stuck.report(which, own));
    const foreign = await stuck.authority.makeTpm();
    const answers: Answer[] = [];
    for (let at = 0; at < 12; at++) {
      const challenge = await stuck.challenge("hostile-3");
      const bytes = at % 2 === 0 ? Buffer.from("nonsense") : await stuck.report(foreign, challenge);
      answers.push(await stuck.send(challenge, bytes));
    }
    expect(new Set(statusesOf(answers))).toEqual(new Set([422]));
    expect(answers[0]?.body.error).toEqual({ code: "evidence-refused", message: "the evidence does not verify" });
    expect((await stuck.ask("GET", "/metrics", { token: VIEWER })).text).toContain("ironclaw_verifier_queue_depth 1\n");
    await stuck.service.close();
    expect((await held).status).toBe(503);
  });

  test("I10: who sends in an unknown name is refused the same way", async () => {
    await using stuck = await openStuck();
    const challenge = await stuck.challenge("nobody");
    const report = await stuck.report(await stuck.authority.makeTpm(), challenge);
    expect((await stuck.send(challenge, report)).status).toBe(422);
  });
});

describe("what waits has an end", () => {
  test("I10: of one machine's own reports eight at a time are judged or wait, the others are told to come again", async () => {
    await using stuck = await openStuck();
    const which = await stuck.enrol("hostile-3");
    const challenges = await Promise.all(Array.from({ length: 12 }, () => stuck.challenge("hostile-3")));
    const reports = await Promise.all(challenges.map((challenge) => stuck.report(which, challenge)));
    const answers = challenges.map((challenge, at) => stuck.send(challenge, reports[at] ?? new Uint8Array()));
    const [refused] = await soMany(answers, 503, 4);
    expect([refused?.body.error.code, refused?.headers["retry-after"]]).toEqual(["busy", "5"]);
    await stuck.service.close();
    expect(new Set(statusesOf(await Promise.all(answers)))).toEqual(new Set([503]));
  });

  test("I10: viewers have one place in the queue, whatever they ask to be judged again", async () => {
    const store = openSqliteStore(":memory:", manyBytes);
    await using stuck = await openStuck({ dependencies: { workerProgram: hostile, store } }, 4);
    await stuck.enrol("hostile-3");
    await addReport(store, "hostile-3");
    const [{ id }] = (await stuck.ask("GET", "/v1/machines/hostile-3/reports", { token: VIEWER })).body;
    const again = () => stuck.ask("POST", `/v1/machines/hostile-3/reports/${id}/appraisal`, { token: VIEWER });
    const answers = Array.from({ length: 12 }, again);
    const [refused] = await soMany(answers, 503, 4);
    expect(refused?.body.error.code).toBe("busy");
    expect((await stuck.ask("GET", "/metrics", { token: VIEWER })).text).toContain("ironclaw_verifier_queue_depth 1\n");
    await stuck.service.close();
    await Promise.all(answers);
  });

  test("I10: reports on their way are so many as can be judged, and the next is refused before its body is read", async () => {
    await using stuck = await openVerifierBench({
      ...{ dependencies: { workerProgram: hostile } },
      config: (config) => ({
        ...config,
        limits: { ...config.limits, workers: 1, queue: 1, judgeSeconds: 600, drainSeconds: 1 },
      }),
    });
    const which = await stuck.enrol("hostile-3");
    const own = await stuck.challenge("hostile-3");
    const report = await stuck.report(which, own);
    await stuck.service.listen();
    const { port } = stuck.service.app.server.address() as AddressInfo;
    const head = (nonce: Uint8Array, length: number) =>
      `POST /v1/evidence HTTP/1.1\r\nhost: x\r\ncontent-type: application/cmw+cbor\r\nironclaw-nonce: ${base64(nonce)}\r\ncontent-length: ${length}\r\n\r\n`;
    const first = connect(port, "127.0.0.1");
    first.on("error", () => undefined);
    first.write(head(own.nonce, report.length));
    await untilOver(stuck, own.nonce);
    const second = connect(port, "127.0.0.1");
    second.write(head((await stuck.challenge("hostile-3")).nonce, 4 << 20));
    const [said] = await once(second, "data");
    expect(`${said}`).toMatch(/^HTTP\/1\.1 503 [\s\S]*"busy"/);
    second.destroy();
    first.destroy();
  });

  test("I10: a slot is given back once, and one peer has half of them at most", () => {
    const slots = new Slots(4);
    const [one, two] = [slots.take("p"), slots.take("p")];
    expect(slots.take("p")).toBeNull();
    const [three] = [slots.take("q"), slots.take("q")];
    expect(slots.take("r")).toBeNull();
    for (let at = 0; at < 3; at++) one?.();
    expect(slots.take("p")).not.toBeNull();
    expect(slots.take("r")).toBeNull();
    two?.();
    three?.();
    expect([slots.take("r"), slots.take("r")].includes(null)).toBe(false);
    expect(slots.take("s")).toBeNull();
  });

  test("I10: a request that is given up before its body has come gives its slot back", async () => {
    await using one = await openVerifierBench({
      config: (config) => ({ ...config, limits: { ...config.limits, workers: 1, queue: 1 } }),
    });
    const which = await one.enrol("m1");
    await one.service.listen();
    const { port } = one.service.app.server.address() as AddressInfo;
    const { nonce } = await one.challenge("m1");
    const socket = connect(port, "127.0.0.1");
    socket.write(
      `POST /v1/evidence HTTP/1.1\r\nhost: x\r\ncontent-type: application/cmw+cbor\r\nironclaw-nonce: ${base64(nonce)}\r\ncontent-length: 100\r\n\r\nx`,
    );
    await untilOver(one, nonce);
    socket.destroy();
    let status = 503;
    while (status === 503) status = (await one.attest("m1", which)).status;
    expect(status).toBe(200);
  });
});

/** Until a request's head has come as far as its nonce: then nobody else can spend it. */
async function untilOver(which: VerifierBench, nonce: Uint8Array): Promise<void> {
  const open = async () =>
    /ironclaw_verifier_challenges_total\{outcome="answered"\} [1-9]/.test(
      (await which.ask("GET", "/metrics", { token: VIEWER })).text,
    );
  while (!(await open())) await new Promise((settle) => setImmediate(settle));
  expect(nonce).toHaveLength(32);
}

async function addReport(store: VerifierStore, name: string): Promise<void> {
  const machine = await store.machine(name);
  if (machine === null) throw new Error("no such machine");
  const at = "2026-06-01T00:00:00.000Z";
  const report = {
    ...{ at, codes: [], challenged: at, previous: null, result: null, reasons: [] },
    tier: "refused",
    ...{ challenge: { nonce: new Uint8Array(32), bank: "sha256" as const, pcrs: [0] }, evidence: Uint8Array.of(3) },
  } as const;
  await store.change(machine, { view: machine.view, events: [], report });
}
