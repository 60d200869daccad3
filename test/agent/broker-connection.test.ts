import { execFile } from "node:child_process";
import { existsSync, mkdtempSync, rmSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { openAudit } from "../../agent/audit/open.ts";
import type { PublicKeySource } from "../../agent/broker/index.ts";
import { AgentError } from "../../agent/errors.ts";
import { FrameSplitter } from "../../agent/p11kit/frame.ts";
import { serveScope } from "../../agent/scopes/index.ts";
import { ByteWriter, concatBytes, parsePolicy, sha256Hex, utf8 } from "../../policy/index.ts";
import {
  type BrokerFixture,
  INTRUDER_PEER,
  openBroker,
  SIGNER_PEER,
  softwareKeys,
  startBroker,
} from "../support/broker-fixture.ts";
import {
  ECDSA,
  openClient,
  openSession,
  PRIVATE,
  replay,
  SIGNING_STREAM,
  sign,
  signInit,
} from "../support/broker-session.ts";
import { documentBytes, policyDocument } from "../support/policy-document.ts";
import {
  byteArray,
  INITIALIZE_VALUES,
  openRawClient,
  rawFrame,
  requestFrame,
  u32,
  ulongs,
} from "../support/rpc-client.ts";
import { native } from "../support/shim-fixture.ts";

let broker: BrokerFixture;
beforeEach(async () => {
  broker = await startBroker();
});
afterEach(() => broker.close());

describe("connection", () => {
  it.each([
    [0, 0],
    [1, 1],
    [2, 2],
    [31, 2],
  ])("I6: version %i is answered with %i", async (offered, answered) => {
    const client = await openRawClient(broker.socket("release-signing"), null);
    client.send(Uint8Array.of(offered));
    client.end();
    expect(await client.closed()).toEqual(Uint8Array.of(answered));
  });

  it("I6: sessions are limited, belong to one connection, and end with it", async () => {
    const client = await openSession(broker);
    for (let index = 1; index < 64; index += 1)
      expect((await client.call("C_OpenSession", ulongs(1n, 4n))).rv).toBe(0n);
    expect(await client.call("C_OpenSession", ulongs(1n, 4n))).toMatchObject({ rv: 0xb1n });
    const other = await openClient(broker);
    expect(await other.call("C_OpenSession", ulongs(1n, 4n))).toMatchObject({ rv: 0x190n });
    await other.call("C_Initialize", INITIALIZE_VALUES);
    expect(await other.call("C_GetSessionInfo", ulongs(1n))).toMatchObject({ rv: 0xb3n });
    expect((await client.call("C_Finalize")).rv).toBe(0n);
    expect(await client.call("C_GetSessionInfo", ulongs(1n))).toMatchObject({ rv: 0x190n });
  });

  const header = new ByteWriter().u32(7).u32(0).finish();
  it.each([
    ["nothing after the version", new Uint8Array(), false],
    ["an empty body", rawFrame(1, new Uint8Array()), true],
    ["code 0", rawFrame(0, new ByteWriter().u32(2).u32(0).finish()), true],
    ["call 0", rawFrame(1, new ByteWriter().u32(0).sized32(utf8("u")).u64(0n).finish()), true],
    ["another signature", rawFrame(1, new ByteWriter().u32(1).sized32(utf8("ay")).finish()), true],
    ["bytes after the arguments", requestFrame(1, "C_Initialize", INITIALIZE_VALUES, Uint8Array.of(0)), true],
    ["a flag of 2", requestFrame(1, "C_Initialize", Uint8Array.of(2), INITIALIZE_VALUES.slice(1)), true],
    ["a body of 4 GiB", concatBytes(header, u32(0xffff_ffff)), true],
    ["options of 5000 bytes", rawFrame(1, new Uint8Array(), new Uint8Array(5000)), true],
  ])("I10: %s ends that connection only", async (_what, bytes, closes) => {
    const bystander = await openSession(broker);
    const client = await openClient(broker);
    client.send(bytes);
    if (closes) expect(await client.closed()).toEqual(new Uint8Array());
    await signInit(bystander);
    expect((await sign(bystander)).rv).toBe(0n);
  });

  it("I10: mutated streams never reach the token with a key or data that the scope does not allow, and never disturb others", async () => {
    const bystander = await openSession(broker);
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.tuple(fc.nat(SIGNING_STREAM.length - 1), fc.nat(255)), { minLength: 1, maxLength: 4 }),
        fc.nat(SIGNING_STREAM.length),
        async (changes, cut) => {
          const stream = SIGNING_STREAM.slice(0, SIGNING_STREAM.length - (cut % 40));
          for (const [at, byte] of changes) if (at < stream.length) stream[at] = byte;
          await replay(broker, stream);
        },
      ),
      { numRuns: 150 },
    );
    for (const { key, mechanism, data } of broker.requests)
      expect([key, mechanism.type, data.length]).toEqual(["release-ec", "CKM_ECDSA", 32]);
    expect((await bystander.call("C_GetInfo")).rv).toBe(0n);
  });

  it("I10: random streams end their own connection only", async () => {
    await fc.assert(
      fc.asyncProperty(fc.uint8Array({ maxLength: 300 }), async (stream) => {
        await replay(broker, stream);
      }),
      { numRuns: 100 },
    );
    expect((await (await openClient(broker)).call("C_Initialize", INITIALIZE_VALUES)).rv).toBe(0n);
  });

  it("I10: a client that leaves in the middle of a request disturbs nobody", async () => {
    const client = await openClient(broker);
    client.send(SIGNING_STREAM.slice(1, 40));
    client.end();
    await client.closed();
    expect((await (await openClient(broker)).call("C_Initialize", INITIALIZE_VALUES)).rv).toBe(0n);
  });
});

describe("refused peers", () => {
  const refusedOnce = async () => {
    const client = await openClient(broker);
    expect(await client.call("C_Initialize", INITIALIZE_VALUES)).toMatchObject({ rv: 0x200n });
    client.end();
    await client.closed();
  };

  it("I8, I10: a flood of refusals is a few records and a count, and hides no refusal of another kind", async () => {
    broker.peer = INTRUDER_PEER;
    for (let index = 0; index < 40; index += 1) await refusedOnce();
    expect(broker.records()).toHaveLength(16);
    broker.peer = SIGNER_PEER;
    const client = await openSession(broker);
    await signInit(client, u32(0x40), 1n);
    expect(broker.records().at(-1)).toMatchObject({ caller: { uid: 2001 }, step: "mechanism" });
    broker.peer = INTRUDER_PEER;
    broker.time += 60_000;
    await refusedOnce();
    const records = broker.records();
    expect(records).toHaveLength(19);
    const [single, , count, next] = records.slice(15);
    expect(count).toMatchObject({ caller: { uid: 2002 }, step: "caller", operation: "connect", decision: "deny" });
    expect(count?.reason).toBe(`24 more refusals like this one: ${single?.reason}`);
    expect(next?.reason).toBe(single?.reason);
  });

  it("I8: a count that was not written yet is written when the scope is closed", async () => {
    const directory = mkdtempSync(join(tmpdir(), "count-"));
    const lines: string[] = [];
    const write = (_fd: number, bytes: Uint8Array) => {
      lines.push(new TextDecoder().decode(bytes));
      return bytes.length;
    };
    await broker.close();
    broker = await startBroker({
      audit: openAudit({ directory: join(directory, "audit.log"), now: Date.now, anchor: null, files: { write } }),
    });
    broker.peer = null;
    for (let index = 0; index < 19; index += 1) await refusedOnce();
    expect(lines).toHaveLength(16);
    await broker.close();
    expect(lines.at(-1)).toContain('"reason":"3 more refusals like this one: the peer could not be identified"');
    rmSync(directory, { recursive: true });
    broker = await startBroker();
  });

  it("I10: refused peers that stay connected do not keep the scope's caller out", async () => {
    broker.peer = INTRUDER_PEER;
    const held = [];
    for (let index = 0; index < 32; index += 1) held.push(await openClient(broker));
    const more = await openRawClient(broker.socket("release-signing"), null);
    expect(await more.closed()).toEqual(new Uint8Array());
    broker.peer = SIGNER_PEER;
    const client = await openSession(broker);
    await signInit(client);
    expect((await sign(client)).rv).toBe(0n);
    broker.peer = INTRUDER_PEER;
    held[0]?.end();
    await held[0]?.closed();
    await refusedOnce();
  });

  it("I10: a refused peer cannot make the agent hold a large request", async () => {
    broker.peer = INTRUDER_PEER;
    const client = await openClient(broker);
    client.send(concatBytes(u32(7), u32(0), u32(16_385)));
    expect(await client.closed()).toEqual(new Uint8Array());
  });
});

/** What a killed process leaves: the file of a socket that nobody listens on. */
async function leaveStaleSocket(path: string): Promise<void> {
  const script = `require("node:net").createServer().listen(${JSON.stringify(path)}, () => process.kill(process.pid, "SIGKILL"))`;
  await new Promise((resolve) => execFile(process.execPath, ["-e", script], resolve));
}

describe("socket", () => {
  let directory: string;
  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), "socket-"));
  });
  afterEach(() => rmSync(directory, { recursive: true }));

  const serve = async (
    socketPath: string,
    change: { scope?: string; publicKeys?: Map<string, PublicKeySource> } = {},
  ) => {
    const { publicKeys, ...token } = softwareKeys();
    const document = policyDocument();
    for (const [name, { spki }] of publicKeys) {
      document.keys[name] = { spki: `sha256:${sha256Hex(spki)}`, does: name === "vault" ? "decrypt" : "sign" };
    }
    const audit = openAudit({ directory: join(directory, "audit.log"), now: Date.now, anchor: null });
    const policy = parsePolicy(documentBytes(document));
    const broker = openBroker(policy, change.publicKeys ?? publicKeys, { token, audit });
    const { scope = "release-signing" } = change;
    return serveScope({ broker, scope, socketPath, native: native(), identify: async () => SIGNER_PEER });
  };

  it("I6: everybody may connect, and the socket is gone afterwards", async () => {
    const path = join(directory, "a.sock");
    const server = await serve(path);
    expect(statSync(path).mode & 0o777).toBe(0o666);
    await server.close();
    expect(existsSync(path)).toBe(false);
  });

  it("I6: a stale socket is replaced; a file, a link and a served socket are not", async () => {
    const path = join(directory, "b.sock");
    await leaveStaleSocket(path);
    const server = await serve(path);
    await expect(serve(path)).rejects.toMatchObject({ code: "ERR_ENVIRONMENT" });
    await server.close();
    writeFileSync(path, "data");
    await expect(serve(path)).rejects.toMatchObject({ code: "ERR_ENVIRONMENT" });
    symlinkSync(path, join(directory, "link.sock"));
    await expect(serve(join(directory, "link.sock"))).rejects.toBeInstanceOf(AgentError);
    await expect(serve(join(directory, "x".repeat(120)))).rejects.toMatchObject({ code: "ERR_ENVIRONMENT" });
  });

  it("I6: a key that is not the policy's, a missing key and an unknown scope are refused before anything listens", async () => {
    const path = join(directory, "c.sock");
    await expect(serve(path, { scope: "other" })).rejects.toMatchObject({ code: "ERR_LAUNCH" });
    await expect(serve(path, { publicKeys: new Map() })).rejects.toMatchObject({ code: "ERR_LAUNCH" });
    await expect(serve(path, { publicKeys: softwareKeys().publicKeys })).rejects.toMatchObject({ code: "ERR_LAUNCH" });
    expect(existsSync(path)).toBe(false);
  });
});

describe("what a request said", () => {
  const MARK = utf8("what nobody else is to read");
  const given = byteArray(MARK);
  const mechanism = concatBytes(u32(0x1), u32(0xffff_ffff));
  const login = (...more: readonly Uint8Array[]) => requestFrame(0x12, "C_Login", ulongs(1n, 1n), given, ...more);

  it.each([
    ["a PIN", login()],
    ["data to sign", requestFrame(0x12, "C_SignInit", ulongs(1n), ECDSA, ulongs(PRIVATE)), "C_Sign", u32(512)],
    [
      "a ciphertext",
      requestFrame(0x12, "C_DecryptInit", ulongs(1n), mechanism, ulongs(PRIVATE)),
      "C_Decrypt",
      u32(512),
    ],
    ["a wrapped key", requestFrame(0x12, "C_UnwrapKey", ulongs(1n), mechanism, ulongs(PRIVATE), given, u32(0))],
    ["a PIN in a request that is none", login(u32(1))],
    ["a PIN in a call with another signature", rawFrame(0x12, concatBytes(u32(18), u32(1), utf8("u"), MARK))],
  ])("I4: is wiped where it lay once it was read: %s", async (_, first, name?: string, room?: Uint8Array) => {
    const taken: { readonly said: string; readonly body: Uint8Array }[] = [];
    const next = FrameSplitter.prototype.next;
    using _spy = vi.spyOn(FrameSplitter.prototype, "next").mockImplementation(function (this: FrameSplitter) {
      const frame = next.call(this);
      if (frame !== null) taken.push({ said: Buffer.from(frame.body).toString("latin1"), body: frame.body });
      return frame;
    });
    const open = [
      requestFrame(0x10, "C_Initialize", INITIALIZE_VALUES),
      requestFrame(0x11, "C_OpenSession", ulongs(1n, 4n)),
    ];
    const last = name === undefined ? [] : [requestFrame(0x13, name, ulongs(1n), given, room ?? u32(0))];
    await replay(broker, concatBytes(Uint8Array.of(0), ...open, first, ...last));
    expect(taken.some(({ said }) => said.includes(Buffer.from(MARK).toString("latin1")))).toBe(true);
    expect(taken.map(({ body }) => body)).toEqual(taken.map(({ body }) => new Uint8Array(body.length)));
  });
});
