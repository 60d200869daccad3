import { execFile } from "node:child_process";
import { promisify } from "node:util";
import { HANDLE_RANGE, loadBinding, PROPERTY, Tpm, type TpmObject } from "node-tpm2-tss";
import { describe, expect, test } from "vitest";
import { attestationKeyTemplate } from "../../../seal/tpm-templates.ts";
import { leftovers, startSwtpm } from "../../support/swtpm.ts";
import {
  failure,
  fileTpm,
  hash,
  inTpm,
  nativeDirectory,
  openAt,
  readWrite,
  refusal,
  root,
  softwareKey,
  u16,
  u32,
} from "./fixture.ts";

const open = fileTpm();
const selection = [{ bank: "sha256", pcrs: [16] }] as const;
const pcr16 = async (tpm: Tpm) => (await tpm.pcrRead(selection)).get("sha256")?.get(16) ?? u16(0);
const extension = (value: number) => new Map([["sha256", hash("sha256", u32(value))] as const]);

describe("handles", () => {
  test("disposing leaves no transient object and no session, also after an error", async () => {
    await using tpm = await open();
    const work = async () => {
      await using _key = await tpm.createPrimary("endorsement", attestationKeyTemplate);
      await using session = await tpm.startAuthSession({ kind: "policy" });
      expect((await inTpm(tpm)).length).toBe(2);
      await tpm.policyPcr(session, [{ bank: "sha256", pcrs: [4] }], new Uint8Array(32).fill(1));
    };
    expect((await failure(work())).command).toBe("PolicyPCR");
    expect(await inTpm(tpm)).toEqual([]);
  });

  test("closing flushes what was not disposed, ends queued commands first, and later commands are refused", async () => {
    const tpm = await open();
    const key = await tpm.createPrimary("endorsement", attestationKeyTemplate);
    const session = tpm.startAuthSession({ kind: "trial" });
    await tpm.close();
    await tpm.close();
    expect((await session).kind).toBe("trial");
    await key[Symbol.asyncDispose]();
    await expect(tpm.getRandom(1)).rejects.toThrow("GetRandom: the connection is closed");
    await using next = await open();
    expect(await inTpm(next)).toEqual([]);
  });

  test("the third transient object too many is refused by the TPM, and disposing makes room again", async () => {
    await using tpm = await open();
    const keys: TpmObject[] = [];
    const load = async () => keys.push(await tpm.loadExternal(softwareKey().publicArea, "owner"));
    for (let index = 0; index < 3; index++) await load();
    expect(await refusal(load())).toBe("tpm LoadExternal 0x902");
    await keys.pop()?.[Symbol.asyncDispose]();
    await load();
  });

  test("a handle of another connection is a TypeError, not whatever has its number here", async () => {
    const foreign = await (async () => {
      await using tpm = await open();
      return await tpm.loadExternal(softwareKey().publicArea, "owner");
    })();
    await using tpm = await open();
    await using _key = await tpm.loadExternal(softwareKey().publicArea, "owner");
    await expect(tpm.readPublic(foreign)).rejects.toThrow("handle: made by another connection");
    await foreign[Symbol.asyncDispose]();
    expect((await inTpm(tpm)).length).toBe(1);
  });

  test("an NV index that is opened twice at once stays open until both are disposed", async () => {
    await using tpm = await open();
    const index = 0x01800050;
    await using defined = await tpm.nvDefineSpace({ index, attributes: 0x02040004, dataSize: 8 });
    await tpm.nvWrite(defined, hash("sha256", u32(1)).slice(0, 8));
    const use = async () => {
      await using opened = await tpm.trFromTpmPublic(index);
      return (await tpm.nvRead(opened)).length;
    };
    expect(await Promise.all(Array.from({ length: 8 }, use))).toEqual(Array(8).fill(8));
    const [first, second] = [await tpm.trFromTpmPublic(index), await tpm.trFromTpmPublic(index)];
    const closing = first[Symbol.asyncDispose]();
    const third = await tpm.trFromTpmPublic(index); // waits behind the closing
    await closing;
    await first[Symbol.asyncDispose](); // once is enough
    expect((await tpm.nvRead(second)).length + (await tpm.nvRead(third)).length).toBe(16);
    await tpm.nvUndefineSpace(defined);
  });

  test("more sessions than a command can carry are a TypeError", async () => {
    await using tpm = await open();
    const sessions = ["password", "password", "password", "password"] as const;
    await expect(tpm.getRandom(1, { sessions })).rejects.toThrow("sessions: expected at most 3, got 4");
  });
});

describe("the queue", () => {
  test("commands run in the order of the calls, and a failed one does not hold up the next", async () => {
    await using tpm = await open();
    const values = Array.from({ length: 20 }, (_, index) => index);
    const before = await pcr16(tpm);
    const commands = values.map((value) => tpm.pcrExtend(16, extension(value)));
    const wrong = failure(tpm.trFromTpmPublic(0x81ffffff));
    const after = pcr16(tpm);
    await Promise.all(commands);
    expect((await wrong).rc & 0xff).toBe(0x8b);
    expect(await after).toEqual(values.reduce((pcr, value) => hash("sha256", pcr, hash("sha256", u32(value))), before));
  });

  test("a command takes its bytes when it is called, not when its turn comes", async () => {
    await using tpm = await open();
    const before = await pcr16(tpm);
    const digest = hash("sha256", u32(1));
    const busy = tpm.getRandom(8);
    const extended = tpm.pcrExtend(16, new Map([["sha256", digest] as const]));
    const event = new Uint8Array([1, 2, 3]);
    const measured = tpm.pcrEvent(16, event);
    event.fill(0);
    await Promise.all([busy, extended]);
    expect((await measured).get("sha256")).toEqual(hash("sha256", new Uint8Array([1, 2, 3])));
    expect(await pcr16(tpm)).toEqual(
      hash("sha256", hash("sha256", before, digest), hash("sha256", new Uint8Array([1, 2, 3]))),
    );
    // @ts-expect-error what a caller without types may pass
    await expect(tpm.pcrEvent(16, [1, 2])).rejects.toThrow("PCR_Event: expected a Uint8Array, got object");
  });

  test("a command that waits when its signal aborts is never sent, and rejects at once with the signal's reason", async () => {
    await using tpm = await open();
    const before = await pcr16(tpm);
    const abortion = new AbortController();
    const { signal } = abortion;
    const order: string[] = [];
    const first = tpm.pcrExtend(16, extension(1)).then(() => order.push("first"));
    const second = tpm.pcrExtend(16, extension(2), { signal }).catch((cause: unknown) => order.push(String(cause)));
    const third = tpm.pcrExtend(16, extension(3)).then(() => order.push("third"));
    abortion.abort("no longer wanted");
    await Promise.all([first, second, third]);
    expect(order).toEqual(["no longer wanted", "first", "third"]);
    const expected = [1, 3].reduce((pcr, value) => hash("sha256", pcr, hash("sha256", u32(value))), before);
    expect(await pcr16(tpm)).toEqual(expected);
    await expect(tpm.getRandom(1, { signal })).rejects.toBe("no longer wanted");
    expect((await tpm.getRandom(1)).length).toBe(1);
  });

  test("many commands wait for one signal without a warning, and a reason may be a number", async () => {
    await using tpm = await open();
    const warnings: Error[] = [];
    const warn = (warning: Error) => warnings.push(warning);
    process.on("warning", warn);
    const abortion = new AbortController();
    const waiting = Array.from({ length: 40 }, () => tpm.getRandom(1, { signal: abortion.signal }));
    abortion.abort(0x100);
    const outcomes = await Promise.allSettled(waiting);
    await new Promise((resolve) => setImmediate(resolve));
    process.off("warning", warn);
    expect(new Set(outcomes.map((outcome) => outcome.status === "rejected" && outcome.reason))).toEqual(
      new Set([0x100]),
    );
    expect(warnings).toEqual([]);
  });

  test("a command that was sent runs to its end whatever its signal does", async () => {
    await using tpm = await open();
    const before = await pcr16(tpm);
    const abortion = new AbortController();
    const sent = tpm.pcrExtend(16, extension(1), { signal: abortion.signal });
    await new Promise((resolve) => setImmediate(resolve)); // the queue is empty: by now a worker has it
    abortion.abort();
    await sent;
    expect(await pcr16(tpm)).toEqual(hash("sha256", before, hash("sha256", u32(1))));
  });

  test("a method of many commands stops before the next one", async () => {
    await using tpm = await open();
    await using index = await tpm.nvDefineSpace({ index: 0x01800001, attributes: readWrite, dataSize: 2000 });
    await tpm.nvWrite(index, new Uint8Array(2000));
    const abortion = new AbortController();
    const write = tpm.nvWrite(index, new Uint8Array(2000).fill(1), { maxChunk: 1, signal: abortion.signal });
    setTimeout(() => abortion.abort(), 20);
    await expect(write).rejects.toThrow(expect.objectContaining({ name: "AbortError" }));
    const written = (await tpm.nvRead(index)).reduce((sum, byte) => sum + byte, 0);
    expect(written).toBeLessThan(2000);
    await tpm.nvUndefineSpace(index);
  });

  test("an object whose making was aborted is not made; one whose flushing was aborted is still held", async () => {
    await using tpm = await open();
    const abortion = new AbortController();
    const { signal } = abortion;
    const key = await tpm.createPrimary("endorsement", attestationKeyTemplate);
    const busy = tpm.properties(PROPERTY.manufacturer, 1);
    const [made, flushed] = [tpm.startAuthSession({ kind: "hmac", signal }), tpm.flushContext(key, { signal })];
    abortion.abort();
    expect((await Promise.allSettled([made, flushed, busy])).map(({ status }) => status)).toEqual([
      "rejected",
      "rejected",
      "fulfilled",
    ]);
    expect((await tpm.handles(HANDLE_RANGE.transient)).length).toBe(1);
    await tpm.flushContext(key);
    expect(await inTpm(tpm)).toEqual([]);
  });
});

describe("the connection and the addon", () => {
  test("a wrong TCTI is a TpmError of the connection; a missing one is a TypeError, never a search for some TPM", async () => {
    const error = await failure(Tpm.open({ tcti: "swtpm:path=/nonexistent/tpm.sock", nativeDirectory }));
    expect({ layer: error.layer, command: error.command }).toEqual({ layer: "tcti", command: "Open" });
    expect((await failure(Tpm.open({ tcti: "nosuchtcti:x", nativeDirectory }))).command).toBe("Open");
    for (const tcti of ["", "swtpm", "device:", ":x", "/tmp/evil.so:x", "swtpm:path=\0"]) {
      await expect(Tpm.open({ tcti, nativeDirectory })).rejects.toThrow(TypeError);
    }
  });

  test("a failing command writes nothing to stderr, whatever TSS2_LOG asks for", async () => {
    const script = `
      const { Tpm } = await import("node-tpm2-tss");
      await Tpm.open({ tcti: "swtpm:path=/nonexistent", nativeDirectory: ${JSON.stringify(nativeDirectory)} }).catch((error) => console.log(error.command));`;
    const options = { cwd: root, env: { ...process.env, TSS2_LOG: "all+TRACE" } };
    const { stdout, stderr } = await promisify(execFile)(
      process.execPath,
      ["--input-type=module", "-e", script],
      options,
    );
    expect({ stdout, stderr }).toEqual({ stdout: "Open\n", stderr: "" });
  });

  test("the addon refuses unknown commands, wrong inputs and foreign connections", () => {
    const binding = loadBinding(nativeDirectory);
    const connection = binding.connection();
    const none = [0xfff, 0xfff, 0xfff] as const;
    expect(() => binding.run(connection, "NoSuchCommand", none, [1])).toThrow(TypeError);
    expect(() => binding.run(connection, "GetRandom", none, [])).toThrow(TypeError);
    expect(() => binding.run(connection, "GetRandom", none, [new Uint8Array(1)])).toThrow(TypeError);
    expect(() => binding.run({} as typeof connection, "GetRandom", none, [1])).toThrow(TypeError);
  });

  test("two commands at once on one native connection are refused; before opening a command fails", async () => {
    const binding = loadBinding(nativeDirectory);
    const connection = binding.connection();
    const none = [0xfff, 0xfff, 0xfff] as const;
    const first = binding.run(connection, "GetRandom", none, [1]);
    expect(() => binding.run(connection, "GetRandom", none, [1])).toThrow(TypeError);
    await expect(first).rejects.toBe(0x70005);
  });
});

test("the software TPM leaves no file and no process when stopped, and a restart clears its PCRs", async () => {
  const other = await startSwtpm({ endorsement: "none" });
  const sha384 = [{ bank: "sha384", pcrs: [13] }] as const;
  {
    await using tpm = await openAt(other);
    await tpm.pcrExtend(13, new Map([["sha384", new Uint8Array(48).fill(7)] as const]));
  }
  await other.restart();
  {
    await using tpm = await openAt(other);
    expect((await tpm.pcrRead(sha384)).get("sha384")?.get(13)).toEqual(new Uint8Array(48));
  }
  await other.stop();
  await other.stop();
  expect(await leftovers(other.directory)).toEqual([]);
});
