import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { type FileHandle, open } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import {
  answerControlLine,
  type ControlService,
  MAX_REQUEST,
  parseControlRequest,
} from "../../agent/control/control.ts";
import { VirtioPort } from "../../agent/control/port.ts";
import type { SessionFacts } from "../../agent/control/sessions.ts";
import { AgentError } from "../../agent/errors.ts";
import { concatBytes, IronclawError, toBase64, utf8 } from "../../policy/index.ts";
import { machine as approvalsMachine } from "../support/approvals-fixture.ts";

const NONCE = "ab".repeat(32);
const calls: unknown[] = [];
const machine = approvalsMachine();
const waiting = machine.open();
const FROZEN = { all: false, scopes: ["vault"], bits: "0".repeat(16), freezeBits: { vault: 3 } };
const SESSION: SessionFacts = {
  ...{ session: 7, scope: "vault", door: "rpc", standing: "caller", caller: { uid: 2001, pid: 77, unit: null } },
  ...{ since: "2026-11-26T12:00:00.000Z", idleSeconds: 3, operations: 4, refused: 1 },
  ...{ rate: { left: 59, perMinute: 600, burst: 60 }, waitsFor: null },
};
const FINDING = { id: "swap", level: "ok", what: "swap", got: "none" } as const;
const service: ControlService = {
  sessions: {
    list: (scope) => ({ sessions: scope === undefined || scope === "vault" ? [SESSION] : [], more: 0 }),
    end: async (session) => {
      calls.push(session);
      return SESSION;
    },
  },
  doctor: async () => [FINDING],
  approvals: () => machine.approvals,
  metrics: async () => "ironclaw_serving 1\n",
  sealing: {
    check: async () => [],
    reseal: async (envelope) => {
      calls.push(envelope);
      return { name: "hsm-pin", generation: 2 };
    },
    abortReseal: async (name) => void calls.push(name),
    order: async (...given) => {
      calls.push(...given.filter((each) => each !== null));
      return { order: "retry-login" };
    },
    own: async (...blobs) => void calls.push(blobs),
    records: async () => ({ ekName: "000c", boot: "00", logins: { "hsm-pin": null }, anchor: null, freeze: null }),
  },
  restrictions: {
    freeze: async (order) => {
      calls.push(order);
      return FROZEN;
    },
    status: async () => FROZEN,
    narrow: async (envelope) => {
      calls.push(envelope);
      return { serial: 8, sha256: "ab", changes: [] };
    },
  },
  status: async () => ({ state: "serving", reasons: [], devices: [] }),
  endorsement: async () => ({
    ekCertificates: [utf8("ek")],
    ekProfile: "L-2",
    akPublic: utf8("ak"),
    akName: Uint8Array.of(0, 11),
  }),
  activate: async (...blobs) => {
    calls.push(blobs);
    return utf8("credential");
  },
  challenge: async (challenge) => {
    calls.push(challenge);
    return 4711;
  },
  audit: async (from, limit) => {
    calls.push({ from, limit });
    return { records: [], first: 1, head: { seq: 0, hash: "0".repeat(64) } };
  },
};
const broken: ControlService = {
  ...service,
  status: () => Promise.reject(new AgentError("ERR_SPAWNER", "shim status", { expected: "an answer", got: "none" })),
  challenge: () => Promise.reject(new Error("no such thing")),
};

const answer = async (line: string, to = service) => JSON.parse(await answerControlLine(to, line));
const failure = (code: string) => ({ id: null, ok: false, error: { code, message: expect.any(String) } });

describe("a control request", () => {
  test.each([
    ['{"id":1,"op":"status"}', { id: 1, ok: true, state: "serving", reasons: [], devices: [] }],
    [
      '{"id":0,"op":"endorsement"}',
      { id: 0, ok: true, ekCertificates: ["ZWs="], ekProfile: "L-2", akPublic: "YWs=", akName: "000b" },
    ],
    [
      '{"id":2,"op":"activate","credentialBlob":"AQI=","encryptedSecret":"Aw=="}',
      { id: 2, ok: true, secret: toBase64(utf8("credential")) },
    ],
    [`{"id":3,"op":"challenge","nonce":"${NONCE}","bank":"sha384","pcrs":[0,13]}`, { id: 3, ok: true, length: 4711 }],
    [
      '{"id":4,"op":"audit","from":7,"limit":500}',
      { id: 4, ok: true, records: [], first: 1, head: { seq: 0, hash: "0".repeat(64) } },
    ],
    ['{"id":5,"op":"check"}', { id: 5, ok: true, credentials: [] }],
    ['{"id":6,"op":"reseal","package":"AQI="}', { id: 6, ok: true, name: "hsm-pin", generation: 2 }],
    ['{"id":7,"op":"abort-reseal","name":"hsm-pin"}', { id: 7, ok: true }],
    ['{"id":8,"op":"order","order":"AQI="}', { id: 8, ok: true, order: "retry-login" }],
    ['{"id":9,"op":"own","credentialBlob":"AQI=","encryptedSecret":"Aw=="}', { id: 9, ok: true }],
    [
      '{"id":11,"op":"pending"}',
      { id: 11, ok: true, requests: [expect.objectContaining({ request: waiting, required: 2, approvers: [] })] },
    ],
    [
      `{"id":12,"op":"approve","request":"${waiting}","signature":"x"}`,
      { id: 12, ok: true, accepted: false, code: "malformed", reason: expect.any(String) },
    ],
    [
      '{"id":12,"op":"order","order":"AQI=","owner":{"credentialBlob":"AQ==","encryptedSecret":"Ag=="}}',
      { id: 12, ok: true, order: "retry-login" },
    ],
    ['{"id":13,"op":"freeze","all":true}', { id: 13, ok: true, ...FROZEN }],
    ['{"id":14,"op":"freeze","scopes":["vault"]}', { id: 14, ok: true, ...FROZEN }],
    ['{"id":15,"op":"freeze-status"}', { id: 15, ok: true, ...FROZEN }],
    ['{"id":16,"op":"narrow","policy":"AQI="}', { id: 16, ok: true, serial: 8, sha256: "ab", changes: [] }],
    ['{"id":17,"op":"sessions"}', { id: 17, ok: true, sessions: [SESSION], more: 0 }],
    ['{"id":18,"op":"sessions","scope":"other"}', { id: 18, ok: true, sessions: [], more: 0 }],
    ['{"id":19,"op":"end-session","session":7}', { id: 19, ok: true, ...SESSION }],
    ['{"id":20,"op":"doctor"}', { id: 20, ok: true, findings: [FINDING] }],
    [
      '{"id":10,"op":"records"}',
      { id: 10, ok: true, ekName: "000c", boot: "00", logins: { "hsm-pin": null }, anchor: null, freeze: null },
    ],
  ])("%s is answered under its id", async (line, expected) => {
    expect(await answer(line)).toEqual(expected);
  });

  test("reaches the service as bytes", async () => {
    calls.length = 0;
    await answer('{"id":2,"op":"activate","credentialBlob":"AQI=","encryptedSecret":"Aw=="}');
    await answer(`{"id":3,"op":"challenge","nonce":"${NONCE}","bank":"sha256","pcrs":[13]}`);
    expect(calls).toEqual([
      [Buffer.of(1, 2), Buffer.of(3)],
      { nonce: Buffer.from(NONCE, "hex"), bank: "sha256", pcrs: [13] },
    ]);
  });

  test.each([
    ["an unknown op", '{"id":1,"op":"unseal"}'],
    ["the end of no session", '{"id":1,"op":"end-session","session":0}'],
    ["a doctor who is told what to do", '{"id":1,"op":"doctor","fix":true}'],
    ["a freeze of nothing", '{"id":1,"op":"freeze"}'],
    ["a freeze of no scopes", '{"id":1,"op":"freeze","scopes":[]}'],
    ["a freeze of all and of some", '{"id":1,"op":"freeze","all":true,"scopes":["vault"]}'],
    ["an unfreeze", '{"id":1,"op":"freeze","all":false}'],
    ["no op", '{"id":1}'],
    ["no id", '{"op":"status"}'],
    ["an id that is no number", '{"id":"1","op":"status"}'],
    ["a negative id", '{"id":-1,"op":"status"}'],
    ["an unknown field", '{"id":1,"op":"status","pin":"x"}'],
    ["a short nonce", `{"id":1,"op":"challenge","nonce":"${NONCE.slice(2)}","bank":"sha256","pcrs":[13]}`],
    ["a long nonce", `{"id":1,"op":"challenge","nonce":"${NONCE}00","bank":"sha256","pcrs":[13]}`],
    ["an unknown bank", `{"id":1,"op":"challenge","nonce":"${NONCE}","bank":"sha1","pcrs":[13]}`],
    ["no PCR", `{"id":1,"op":"challenge","nonce":"${NONCE}","bank":"sha256","pcrs":[]}`],
    ["a PCR that does not exist", `{"id":1,"op":"challenge","nonce":"${NONCE}","bank":"sha256","pcrs":[24]}`],
    ["a PCR twice", `{"id":1,"op":"challenge","nonce":"${NONCE}","bank":"sha256","pcrs":[13,13]}`],
    ["PCRs that do not ascend", `{"id":1,"op":"challenge","nonce":"${NONCE}","bank":"sha256","pcrs":[13,4]}`],
    ["too many records", '{"id":1,"op":"audit","from":1,"limit":501}'],
    ["no base64", '{"id":1,"op":"activate","credentialBlob":"%%","encryptedSecret":""}'],
    ["a request's id in capitals", '{"id":1,"op":"approve","request":"ABABABABABABABAB","signature":""}'],
    ["a request's id that is short", '{"id":1,"op":"approve","request":"ab","signature":""}'],
    ["more than a signature", `{"id":1,"op":"approve","request":"${waiting}","signature":"${"x".repeat(2049)}"}`],
    ["a list", "[]"],
    ["null", "null"],
  ])("I10: with %s is answered with a typed error", async (_, line) => {
    expect(await answer(line)).toEqual(failure("ERR_CONTROL_MALFORMED"));
  });

  test.each([
    ["no JSON", "status"],
    ["two documents", '{"id":1,"op":"status"}{"id":1,"op":"status"}'],
    ["a field twice", '{"id":1,"op":"status","op":"status"}'],
    ["a prototype", '{"id":1,"op":"status","__proto__":{}}'],
    ["deep nesting", `${"[".repeat(5000)}${"]".repeat(5000)}`],
    ["more bytes than a line has", `{"id":1,"op":"status"${" ".repeat(MAX_REQUEST)}}`],
  ])("I10: %s is answered with a typed error", async (_, line) => {
    expect(await answer(line)).toEqual(failure("ERR_POLICY_MALFORMED"));
  });

  test("I10: a service that fails gives an answer with its code, and what it does not know is not explained", async () => {
    expect(await answer('{"id":9,"op":"status"}', broken)).toEqual({
      ...{ id: 9, ok: false },
      error: { code: "ERR_SPAWNER", message: "shim status: expected an answer, got none" },
    });
    const challenge = `{"id":8,"op":"challenge","nonce":"${NONCE}","bank":"sha256","pcrs":[13]}`;
    expect(await answer(challenge, broken)).toMatchObject({ id: 8, ok: false, error: { code: "ERR_INTERNAL" } });
  });

  test("I10: any text is answered with one line of JSON, and the parser throws typed errors only", async () => {
    const near = fc
      .record({
        id: fc.anything(),
        op: fc.constantFrom("status", "audit", "challenge", "activate", "endorsement", "x"),
      })
      .map((value) => JSON.stringify(value) ?? "");
    await fc.assert(
      fc.asyncProperty(fc.oneof(fc.string({ unit: "binary" }), fc.json(), near), async (line) => {
        const text = await answerControlLine(service, line);
        expect(text).not.toContain("\n");
        expect(typeof JSON.parse(text).ok).toBe("boolean");
        try {
          parseControlRequest(line);
        } catch (error) {
          expect(error).toBeInstanceOf(IronclawError);
        }
      }),
      { numRuns: 500 },
    );
  });
});

describe("a control port", () => {
  // A pipe stands in for the port: the agent's end is read like the device, and the test writes as the host does.
  let directory: string;
  let host: FileHandle;
  let port: VirtioPort;
  let lines: AsyncGenerator<string, never>;
  beforeAll(() => {
    directory = mkdtempSync(join(tmpdir(), "ironclaw-port-"));
  });
  afterAll(() => rmSync(directory, { recursive: true }));
  beforeEach(async () => {
    const path = join(directory, `port-${Math.random()}`);
    execFileSync("mkfifo", [path]);
    port = await VirtioPort.open(path);
    lines = port.lines(MAX_REQUEST);
    host = await open(path, "r+");
  });
  afterEach(async () => {
    await host.close();
    await port[Symbol.asyncDispose]();
  });

  const next = async () => (await lines.next()).value;
  const status = { id: 1, op: "status" };

  test("gives one line after the other, whatever the pieces in which they arrive", async () => {
    for (const piece of ["fir", "st\nsec", "ond\n", "\n", "third\nfour"]) await host.write(piece);
    expect([await next(), await next(), await next(), await next()]).toEqual(["first", "second", "", "third"]);
    await host.write("th\n");
    expect(await next()).toBe("fourth");
  });

  test("I10: a line that is too long is answered once with a typed error, its rest is skipped, and the next line works", async () => {
    const write = async () => {
      for (let written = 0; written < 1_000_000; written += 50_000) await host.write("x".repeat(50_000));
      await host.write(`\n${JSON.stringify(status)}\n`);
    };
    const writing = write();
    const long = await next();
    expect(long.length).toBeGreaterThan(MAX_REQUEST);
    expect(await answer(long)).toEqual(failure("ERR_POLICY_MALFORMED"));
    expect(await answer(await next())).toMatchObject({ id: 1, ok: true });
    await writing;
  });

  test("I10: a request hidden in the rest of a line that is too long is not served", async () => {
    const writing = host.write("y".repeat(MAX_REQUEST + 1)); // more than a pipe holds
    expect((await next()).length).toBeGreaterThan(MAX_REQUEST);
    await writing;
    await host.write(`${JSON.stringify(status)}\n{"id":2}\n`);
    expect(await next()).toBe('{"id":2}');
  });

  test("I10: bytes that are no UTF-8 are answered with a typed error, and the next line works", async () => {
    await host.write(concatBytes(Uint8Array.of(0xff, 0xfe, 0x00, 0x80, 10), utf8(`${JSON.stringify(status)}\n`)));
    expect(await answer(await next())).toMatchObject({ ok: false, error: { code: "ERR_POLICY_MALFORMED" } });
    expect(await answer(await next())).toMatchObject({ id: 1, ok: true });
  });

  test("I10: after any junk the next request is answered", async () => {
    const junk = fc.array(fc.uint8Array({ maxLength: 3 * MAX_REQUEST }), { maxLength: 3 });
    await fc.assert(
      fc.asyncProperty(junk, fc.nat(1_000_000), async (pieces, id) => {
        const sent = concatBytes(...pieces, utf8(`\n{"id":${id},"op":"status","end":1}\n`));
        const writing = host.write(sent);
        for (;;) {
          const line = await next();
          const told = await answerControlLine(service, line);
          expect(Object.keys(JSON.parse(told))).toContain("ok");
          if (line === `{"id":${id},"op":"status","end":1}`) break;
        }
        await writing;
      }),
      { numRuns: 40 },
    );
  });
});
