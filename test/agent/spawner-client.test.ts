import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { AgentError, STATE_PROBLEMS } from "../../agent/errors.ts";
import { openSpawner, type SpawnerTransport } from "../../agent/spawner-client.ts";
import {
  encodeCapAndReboot,
  encodeOpenState,
  encodePrepareShim,
  encodeStartShim,
  encodeStopShim,
  parseOpenStateReply,
  parsePeerExeReply,
  parsePrepareShimReply,
  parseShimStatusReply,
  parseStartShimReply,
  parseStartWorkloadsReply,
  parseStopShimReply,
  type ShimFile,
} from "../../agent/spawner-messages.ts";
import { ByteReader, ByteWriter, toHex, utf8 } from "../../policy/index.ts";

const text = (bytes: Uint8Array): string => new TextDecoder().decode(bytes);
const reply = (op: number): ByteWriter => new ByteWriter().u8(op).u8(0);
const digest = fc.uint8Array({ minLength: 32, maxLength: 32 });
const u16 = fc.nat(0xffff);
const u32 = fc.nat(0xffffffff);

const shimFile: fc.Arbitrary<ShimFile> = fc.record({
  path: fc.string({ maxLength: 60 }),
  source: fc.oneof(
    fc.record({
      kind: fc.constant("root" as const),
      path: fc.string({ maxLength: 60 }),
    }),
    fc.record({
      kind: fc.constant("cabinet" as const),
      offset: fc.nat(Number.MAX_SAFE_INTEGER),
      length: fc.nat(Number.MAX_SAFE_INTEGER),
    }),
  ),
  executable: fc.constant(false),
  writable: fc.boolean(),
});

const parsers: readonly (readonly [string, (bytes: Uint8Array) => unknown, Uint8Array])[] = [
  ["PREPARE_SHIM", (bytes) => parsePrepareShimReply(bytes, 1), reply(1).u16(1).bytes(new Uint8Array(40)).finish()],
  ["START_SHIM", parseStartShimReply, reply(2).u32(7).finish()],
  ["PEER_EXE", parsePeerExeReply, reply(3).u8(1).u32(7).bytes(new Uint8Array(32)).sized16(utf8("/bin/x")).finish()],
  ["unfinished PEER_EXE", parsePeerExeReply, reply(3).u8(0).u32(7).finish()],
  [
    "SHIM_STATUS",
    parseShimStatusReply,
    reply(4).u8(1).u32(0).sized16(utf8("Uid:\t1")).sized16(utf8("net 1\n")).sized16(utf8("net 2\n")).u32(3).finish(),
  ],
  ["START_WORKLOADS", parseStartWorkloadsReply, reply(6).u16(2).finish()],
  ["STOP_SHIM", parseStopShimReply, reply(8).finish()],
  ["OPEN_STATE", parseOpenStateReply, reply(7).u8(1).bytes(new Uint8Array(16)).u64(64n).finish()],
];

describe("requests", () => {
  test("PREPARE_SHIM holds every field of every file, in order", () => {
    fc.assert(
      fc.property(fc.nat(15), fc.array(shimFile, { maxLength: 20 }), (id, files) => {
        const reader = new ByteReader(encodePrepareShim(id, files), "request");
        expect([reader.u8("op"), reader.u8("id"), reader.u16("count")]).toEqual([1, id, files.length]);
        for (const { path, source, writable, executable } of files) {
          expect(reader.u8("flags")).toBe((writable ? 1 : 0) + (executable ? 2 : 0));
          expect(text(reader.sized16("path", 65_535))).toBe(path);
          expect(reader.u8("source")).toBe(source.kind === "root" ? 0 : 1);
          if (source.kind === "root") expect(text(reader.sized16("source", 65_535))).toBe(source.path);
          else
            expect([reader.u64("offset"), reader.u64("length")]).toEqual([
              BigInt(source.offset),
              BigInt(source.length),
            ]);
        }
        reader.end();
      }),
    );
  });

  test("START_SHIM holds the profile's digest, the environment, the directories, the nodes and the endpoints", () => {
    const texts = fc.array(fc.string({ maxLength: 40 }), { maxLength: 30 });
    const endpoints = fc.array(fc.record({ listen: fc.string({ maxLength: 40 }), to: fc.string({ maxLength: 40 }) }), {
      maxLength: 8,
    });
    fc.assert(
      fc.property(
        ...[fc.nat(15), digest, texts, texts, texts, endpoints],
        (id, profileSha256, environment, writable, nodes, connect) => {
          const request = { id, profileSha256, environment, writable, nodes, connect };
          const reader = new ByteReader(encodeStartShim(request), "request");
          const next = () => text(reader.sized16("text", 65_535));
          expect([reader.u8("op"), reader.u8("id")]).toEqual([2, id]);
          expect(reader.bytes(32, "profile")).toEqual(profileSha256);
          for (const expected of [environment, writable, nodes])
            expect(Array.from({ length: reader.u8("count") }, next)).toEqual(expected);
          const found = Array.from({ length: reader.u8("count") }, () => ({ listen: next(), to: next() }));
          expect(found).toEqual(connect);
          reader.end();
        },
      ),
    );
  });

  test("STOP_SHIM names the shim", () => {
    expect(encodeStopShim(15)).toEqual(Uint8Array.of(8, 15));
  });

  test("a reason of any length and content can be sent", () => {
    fc.assert(
      fc.property(fc.string({ unit: "binary", maxLength: 400 }), (reason) => {
        const reader = new ByteReader(encodeCapAndReboot(reason), "request");
        reader.u8("op");
        expect(text(reader.sized16("reason", 200))).toMatch(/^[ -~]*$/);
        reader.end();
      }),
    );
  });

  test("OPEN_STATE says whether a blank disk may be formatted", () => {
    expect([encodeOpenState(false), encodeOpenState(true)]).toEqual([Uint8Array.of(7, 0), Uint8Array.of(7, 1)]);
  });

  test("a writable executable is a mistake of the caller", () => {
    const file: ShimFile = {
      path: "/x",
      source: { kind: "root", path: "/x" },
      executable: true,
      writable: true,
    };
    expect(() => encodePrepareShim(0, [file])).toThrow(TypeError);
  });
});

describe("replies", () => {
  test("the values come back as the spawner wrote them", () => {
    fc.assert(
      fc.property(digest, u32, u16, fc.string({ maxLength: 50 }), (sha256, number, small, path) => {
        const digests = reply(1).u16(1).bytes(sha256).u64(BigInt(number)).finish();
        expect(parsePrepareShimReply(digests, 1)).toEqual([{ sha256, size: number }]);
        expect(parseStartShimReply(reply(2).u32(number).finish())).toBe(number);
        const peer = reply(3).u8(1).u32(number).bytes(sha256).sized16(utf8(path)).finish();
        expect(parsePeerExeReply(peer)).toEqual({ pid: number, sha256, path });
        expect(parsePeerExeReply(reply(3).u8(0).u32(number).finish())).toBe(number);
        expect(parseStartWorkloadsReply(reply(6).u16(small).finish())).toBe(small);
      }),
    );
  });

  test("a shim's status names the namespaces that it does not share, and keeps the sign of the wait status", () => {
    const status = parseShimStatusReply(
      reply(4)
        .u8(1)
        .u32(0xffffffff)
        .sized16(utf8("Name:\tshim\nUid:\t991\t991\t991\t991\nCapEff:\t0000000000000000\n"))
        .sized16(utf8("mnt 10\nnet 20\nuser 30\n"))
        .sized16(utf8("mnt 11\nnet 20\nuser 31\n"))
        .u32(2)
        .finish(),
    );
    expect(status).toMatchObject({
      state: "running",
      waitStatus: -1,
      ownNamespaces: ["mnt:[10]", "user:[30]"],
      inheritedFilters: 2,
    });
    expect(status.fields.get("Uid")).toBe("991\t991\t991\t991");
  });

  test.each(parsers)("I10: a changed or random %s reply ends in a value or a typed error", (_name, parse, good) => {
    parse(good);
    const mutated = fc.tuple(fc.nat(good.length - 1), fc.nat(255)).map(([at, value]) => good.with(at, value));
    fc.assert(
      fc.property(fc.oneof(fc.uint8Array({ maxLength: 200 }), mutated), (bytes) => {
        try {
          parse(bytes);
        } catch (error) {
          expect(error).toBeInstanceOf(AgentError);
          expect(error).toMatchObject({ code: "ERR_SPAWNER" });
        }
      }),
      { numRuns: 300 },
    );
  });

  test.each(parsers)("every cut-off %s reply, and one with a byte too many, is refused", (_name, parse, good) => {
    for (let length = 0; length < good.length; length++)
      expect(() => parse(good.subarray(0, length))).toThrow(AgentError);
    expect(() => parse(Uint8Array.of(...good, 0))).toThrow(AgentError);
  });

  test("the reply to another request, and another number of digests than files, are refused", () => {
    expect(() => parseStartShimReply(reply(3).u32(7).finish())).toThrow(/op: expected 2, got 3/);
    expect(() => parsePrepareShimReply(reply(1).u16(0).finish(), 1)).toThrow(/digests: expected 1, got 0/);
  });

  test("an opened state volume comes back with its id and size, new or not", () => {
    fc.assert(
      fc.property(fc.boolean(), fc.uint8Array({ minLength: 16, maxLength: 16 }), u32, (formatted, volumeId, size) => {
        const bytes = reply(7)
          .u8(formatted ? 1 : 0)
          .bytes(volumeId)
          .u64(BigInt(size));
        expect(parseOpenStateReply(bytes.finish())).toEqual({ formatted, volumeId, bytes: BigInt(size) });
      }),
    );
    const neither = reply(7).u8(2).bytes(new Uint8Array(16)).u64(1n).finish();
    expect(() => parseOpenStateReply(neither)).toThrow(/formatted: expected 0 or 1, got 2/);
  });

  test.each(STATE_PROBLEMS)(
    "I11: a state volume that is refused as %s is that for the agent, and nothing else",
    (state) => {
      const refused = (message: string) => () => parseOpenStateReply(Uint8Array.of(7, 1, ...utf8(message)));
      expect(refused(`${state}: disk: expected 2 bytes`)).toThrow(
        expect.objectContaining({
          ...{ code: "ERR_STATE_VOLUME", exitCode: 4, state },
          message: `state volume: disk: expected 2 bytes (${state})`,
        }),
      );
      for (const message of [state, `${state}x: y`, `x ${state}: y`, "no such request: y"])
        expect(refused(message)).toThrow(expect.objectContaining({ code: "ERR_SPAWNER", state: undefined }));
    },
  );

  test("a refusal carries the spawner's own words", () => {
    expect(() => parseStartShimReply(Uint8Array.of(2, 1, ...utf8("no such shim")))).toThrow(
      "spawner refused: no such shim",
    );
  });
});

describe("the client", () => {
  /** Answers from a list, and keeps what it was asked. */
  function scripted(answers: readonly { bytes: Uint8Array; fds?: readonly number[] }[]) {
    const seen: { fds: readonly number[]; op: number | undefined }[] = [];
    const closed: number[] = [];
    let busy = 0;
    const transport: SpawnerTransport = {
      call: async (_fd, request, fds) => {
        if (++busy > 1) throw new Error("two requests at once");
        const answer = answers[seen.length];
        seen.push({ fds, op: request[0] });
        await new Promise((resolve) => setImmediate(resolve));
        busy--;
        if (answer === undefined) throw new Error("end of the socket");
        return { bytes: answer.bytes, fds: answer.fds ?? [] };
      },
      closeFd: (fd) => void closed.push(fd),
    };
    return { client: openSpawner(transport, 3), seen, closed };
  }

  test("requests made at once are sent one after the other, and a failed one does not hold up the next", async () => {
    const { client, seen } = scripted([
      { bytes: Uint8Array.of(6, 1, ...utf8("no")) },
      {
        bytes: reply(3).u8(1).u32(7).bytes(new Uint8Array(32)).sized16(utf8("/x")).finish(),
      },
    ]);
    const [first, second] = await Promise.allSettled([client.startWorkloads(), client.peerExe(42)]);
    expect(first.status).toBe("rejected");
    expect(second).toMatchObject({
      status: "fulfilled",
      value: { pid: 7, path: "/x" },
    });
    expect(seen).toEqual([
      { op: 6, fds: [] },
      { op: 3, fds: [42] },
    ]);
  });

  test("I10: a look takes a request for each slice; another one comes between them, and what ends a shim or the machine before both", async () => {
    const sent: string[] = [];
    const slices = new Map([
      [42, 3],
      [43, 2],
    ]);
    const transport: SpawnerTransport = {
      call: async (_fd, request, [pidfd = -1]) => {
        sent.push(pidfd < 0 ? `op ${request[0]}` : `${pidfd}: ${toHex(request.subarray(1))}`);
        await new Promise((resolve) => setImmediate(resolve));
        if (pidfd < 0) return { bytes: reply(request[0] ?? 0).finish(), fds: [] };
        const left = (slices.get(pidfd) ?? 0) - 1;
        slices.set(pidfd, left);
        const known = reply(3).u8(1).u32(pidfd).bytes(new Uint8Array(32)).sized16(utf8("/x"));
        return { bytes: (left === 0 ? known : reply(3).u8(0).u32(pidfd)).finish(), fds: [] };
      },
      closeFd: () => {},
    };
    const client = openSpawner(transport, 3);
    const looks = Promise.all([client.peerExe(42), client.peerExe(43)]);
    await Promise.all([client.stopShim(1), client.capAndReboot("over")]);
    expect((await looks).map(({ pid }) => pid)).toEqual([42, 43]);
    const [first, second] = ["0000002a", "0000002b"];
    expect(sent).toEqual([
      ...["42: 00000000", "op 8", "op 5"],
      ...["43: 00000000", `42: ${first}`, `43: ${second}`, `42: ${first}`],
    ]);
  });

  test("a started shim has exactly two descriptors; those of any other reply are closed", async () => {
    const good = reply(2).u32(7).finish();
    const request = {
      id: 0,
      profileSha256: new Uint8Array(32),
      ...{ environment: [], writable: [], nodes: [], connect: [] },
    };
    const { client, closed } = scripted([
      { bytes: good, fds: [10, 11] },
      { bytes: good, fds: [12] },
      { bytes: good, fds: [13, 14, 15] },
      { bytes: reply(6).u16(0).finish(), fds: [16] },
    ]);
    expect(await client.startShim(request)).toEqual({
      pid: 7,
      fds: { request: 10, pin: 11 },
    });
    await expect(client.startShim(request)).rejects.toThrow(/descriptors: expected 2, got 1/);
    await expect(client.startShim(request)).rejects.toThrow(/descriptors: expected 2, got 3/);
    await expect(client.startWorkloads()).rejects.toThrow(/descriptors: expected 0, got 1/);
    expect(closed).toEqual([12, 13, 14, 15, 16]);
  });

  test("I4: of the state volume's key the client sends the descriptor, and does not keep or close it", async () => {
    const { client, seen, closed } = scripted([
      { bytes: reply(7).u8(0).bytes(new Uint8Array(16)).u64(64n).finish() },
      { bytes: Uint8Array.of(7, 1, ...utf8("state-blank: never formatted")) },
    ]);
    expect(await client.openState({ format: false }, 42)).toMatchObject({ formatted: false, bytes: 64n });
    await expect(client.openState({ format: true }, 43)).rejects.toMatchObject({ state: "state-blank" });
    expect(seen).toEqual([
      { op: 7, fds: [42] },
      { op: 7, fds: [43] },
    ]);
    expect(closed).toEqual([]);
  });

  test("I5: a shim is stopped by its id, and a stop that the spawner could not complete is an error", async () => {
    const { client, seen } = scripted([
      { bytes: reply(8).finish() },
      { bytes: Uint8Array.of(8, 1, ...utf8("shim 3: still ending")) },
    ]);
    await expect(client.stopShim(3)).resolves.toBeUndefined();
    await expect(client.stopShim(3)).rejects.toThrow("spawner refused: shim 3: still ending");
    expect(seen.map(({ op }) => op)).toEqual([8, 8]);
  });

  test("I6, I10: after a reply that did not come in time no later one is taken for another request's; cap-and-reboot is still sent", async () => {
    const ops: (number | undefined)[] = [];
    const timeout = new AgentError("ERR_NATIVE", "call: timed out", {
      cause: Object.assign(new Error("receive: Connection timed out"), { code: "ETIMEDOUT" }),
    });
    const transport: SpawnerTransport = {
      call: async (_fd, request) => {
        ops.push(request[0]);
        if (ops.length === 1) throw timeout;
        return { bytes: reply(3).u8(1).u32(7).bytes(new Uint8Array(32)).sized16(utf8("/x")).finish(), fds: [] };
      },
      closeFd: () => {},
    };
    const client = openSpawner(transport, 3);
    const asked = await Promise.allSettled([client.peerExe(42), client.peerExe(43), client.shimStatus(0)]);
    for (const one of asked) expect(one).toMatchObject({ status: "rejected", reason: { code: "ERR_SPAWNER" } });
    expect(ops).toEqual([3]);
    await client.capAndReboot("over");
    expect(ops).toHaveLength(2);
  });

  test("the end of the socket is the expected answer to cap-and-reboot", async () => {
    await expect(scripted([]).client.capAndReboot("over")).resolves.toBeUndefined();
  });
});
