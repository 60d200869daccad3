import { ByteReader, ByteWriter, PolicyError, utf8 } from "../policy/index.ts";
import { AgentError, STATE_PROBLEMS } from "./errors.ts";

/** Bytes of the longest packet in either direction (SPAWNER.md, Transport). */
export const MAX_SPAWNER_MESSAGE = 65_536;

/** The first byte of a request and of its reply. */
export const SPAWNER_OPS = {
  prepareShim: 1,
  startShim: 2,
  peerExe: 3,
  shimStatus: 4,
  capAndReboot: 5,
  startWorkloads: 6,
  openState: 7,
  stopShim: 8,
} as const;

/** Shim ids are 0 to 15. */
export const MAX_SHIMS = 16;

export type SpawnerOp = (typeof SPAWNER_OPS)[keyof typeof SPAWNER_OPS];

/** Where the bytes of a shim's file come from: the measured root file system, or a range of the cabinet in bytes. */
export type ShimFileSource =
  | { readonly kind: "root"; readonly path: string }
  | {
      readonly kind: "cabinet";
      readonly offset: number;
      readonly length: number;
    };

/** One file of a shim's private root. `writable` puts it into the shim's writable area; then it may not be executable. */
export interface ShimFile {
  /** Absolute and normalised, as the shim will see it. */
  readonly path: string;
  readonly source: ShimFileSource;
  readonly executable: boolean;
  readonly writable: boolean;
}

/** What the spawner copied: digest and length of the bytes that now stand in the private root. */
export interface ShimDigest {
  readonly sha256: Uint8Array;
  readonly size: number;
}

/** A relay's work: what is connected to `listen` inside the shim's network goes to `to`, and to nothing else. */
export interface Endpoint {
  /** `127.0.0.1:PORT`, `[::1]:PORT`, or a path of the private root. */
  readonly listen: string;
  /** An IPv4 or `[IPv6]` literal with its port, or a path of the machine. */
  readonly to: string;
}

export interface StartShim {
  /** 0 to 15, prepared before. */
  readonly id: number;
  /** 32 bytes; the spawner refuses when its own hash of `/profile` differs. */
  readonly profileSha256: Uint8Array;
  /** `NAME=VALUE`, complete: the shim gets nothing else. */
  readonly environment: readonly string[];
  /** Directories inside the private root that the shim may write to. */
  readonly writable: readonly string[];
  /** Device nodes that exist in the shim: `/dev/...` or `usb:vvvv:pppp`. At most 8. */
  readonly nodes: readonly string[];
  /** At most 8. None: no relay, and a network without even a loopback. */
  readonly connect: readonly Endpoint[];
}

/** The program of a process at one moment. `path` is for people only. */
export interface PeerExe {
  readonly pid: number;
  readonly sha256: Uint8Array;
  readonly path: string;
}

/** The kernel's word about a shim. Says nothing about what the shim's code does. */
export interface ShimStatus {
  readonly state: "never-started" | "running" | "ended";
  /** As waitpid(2) returns it; 0 unless ended. */
  readonly waitStatus: number;
  /** The lines of /proc/PID/status by name, e.g. `CapEff`. Empty unless running. */
  readonly fields: ReadonlyMap<string, string>;
  /** Namespace inodes by name (cgroup, ipc, mnt, net, pid, user, uts). Empty unless running. */
  readonly shimNamespaces: ReadonlyMap<string, string>;
  readonly spawnerNamespaces: ReadonlyMap<string, string>;
  /** The namespaces that the shim does not share with the spawner, sorted, as /proc shows them: `net:[4026532000]`. */
  readonly ownNamespaces: readonly string[];
  /** Seccomp filters of the spawner itself: every shim has them too, below its own. */
  readonly inheritedFilters: number;
}

/** The state volume, mounted. Says nothing about its age: an older copy of the same volume opens as well. */
export interface StateVolume {
  /** It was blank and is new. */
  readonly formatted: boolean;
  /** 16 bytes; the header's, and the same inside the volume. */
  readonly volumeId: Uint8Array;
  /** Size of the volume. */
  readonly bytes: bigint;
}

/** Bytes of a request for PREPARE_SHIM. @param files 1 to 256, in the order in which the digests come back */
export function encodePrepareShim(id: number, files: readonly ShimFile[]): Uint8Array {
  const writer = new ByteWriter().u8(SPAWNER_OPS.prepareShim).u8(id).u16(files.length);
  for (const file of files) {
    if (file.writable && file.executable) throw new TypeError(`${file.path}: a writable file cannot be executable`);
    writer.u8((file.writable ? 1 : 0) | (file.executable ? 2 : 0)).sized16(utf8(file.path));
    if (file.source.kind === "root") writer.u8(0).sized16(utf8(file.source.path));
    else writer.u8(1).u64(BigInt(file.source.offset)).u64(BigInt(file.source.length));
  }
  return writer.finish();
}

export function encodeStartShim(request: StartShim): Uint8Array {
  if (request.profileSha256.length !== 32) throw new TypeError(`profile digest: ${request.profileSha256.length} bytes`);
  const writer = new ByteWriter().u8(SPAWNER_OPS.startShim).u8(request.id).bytes(request.profileSha256);
  for (const texts of [request.environment, request.writable, request.nodes]) {
    writer.u8(texts.length);
    for (const text of texts) writer.sized16(utf8(text));
  }
  writer.u8(request.connect.length);
  for (const { listen, to } of request.connect) writer.sized16(utf8(listen)).sized16(utf8(to));
  return writer.finish();
}

export function encodeStopShim(id: number): Uint8Array {
  return new ByteWriter().u8(SPAWNER_OPS.stopShim).u8(id).finish();
}

/** @param look 0 for a new one, else what the reply to its last slice said */
export function encodePeerExe(look: number): Uint8Array {
  return new ByteWriter().u8(SPAWNER_OPS.peerExe).u32(look).finish();
}

export function encodeShimStatus(id: number): Uint8Array {
  return new ByteWriter().u8(SPAWNER_OPS.shimStatus).u8(id).finish();
}

/** @param reason cut to 200 printable ASCII characters: what cannot be said must not keep the spawner from capping */
export function encodeCapAndReboot(reason: string): Uint8Array {
  const text = reason.replace(/[^\x20-\x7e]/g, "?").slice(0, 200);
  return new ByteWriter().u8(SPAWNER_OPS.capAndReboot).sized16(utf8(text)).finish();
}

export function encodeStartWorkloads(): Uint8Array {
  return new ByteWriter().u8(SPAWNER_OPS.startWorkloads).finish();
}

/** @param format a blank disk is formatted; one that is not blank never is */
export function encodeOpenState(format: boolean): Uint8Array {
  return new ByteWriter()
    .u8(SPAWNER_OPS.openState)
    .u8(format ? 1 : 0)
    .finish();
}

/** @param count how many files were asked for; any other number of digests is refused */
export function parsePrepareShimReply(bytes: Uint8Array, count: number): readonly ShimDigest[] {
  return parseReply(bytes, SPAWNER_OPS.prepareShim, (reader) => {
    const got = reader.u16("count");
    if (got !== count)
      throw new AgentError("ERR_SPAWNER", "prepare-shim: digests", {
        expected: `${count}`,
        got: `${got}`,
      });
    return Array.from({ length: count }, () => ({
      sha256: reader.bytes(32, "sha256"),
      size: size(reader.u64("size")),
    }));
  });
}

/** The shim's process id, as the spawner sees it. */
export function parseStartShimReply(bytes: Uint8Array): number {
  return parseReply(bytes, SPAWNER_OPS.startShim, (reader) => reader.u32("pid"));
}

/** The program, or the number of a look that takes another request. */
export function parsePeerExeReply(bytes: Uint8Array): PeerExe | number {
  return parseReply(bytes, SPAWNER_OPS.peerExe, (reader) => {
    const state = reader.u8("state");
    if (state > 1) throw new AgentError("ERR_SPAWNER", "peer-exe: state", { expected: "0 or 1", got: `${state}` });
    if (state === 0) return reader.u32("look");
    return { pid: reader.u32("pid"), sha256: reader.bytes(32, "sha256"), path: text(reader.sized16("path", 4096)) };
  });
}

export function parseShimStatusReply(bytes: Uint8Array): ShimStatus {
  return parseReply(bytes, SPAWNER_OPS.shimStatus, (reader) => {
    const state = (["never-started", "running", "ended"] as const)[reader.u8("state")];
    if (state === undefined)
      throw new AgentError("ERR_SPAWNER", "shim-status: state", {
        expected: "0 to 2",
        got: "more",
      });
    const waitStatus = reader.u32("wait status") | 0;
    const fields = pairs(text(reader.sized16("status", 16_384)), ":");
    const shimNamespaces = pairs(text(reader.sized16("shim namespaces", 1024)), " ");
    const spawnerNamespaces = pairs(text(reader.sized16("spawner namespaces", 1024)), " ");
    const ownNamespaces = [...shimNamespaces]
      .filter(([name, inode]) => spawnerNamespaces.has(name) && spawnerNamespaces.get(name) !== inode)
      .map(([name, inode]) => `${name}:[${inode}]`)
      .sort();
    const inheritedFilters = reader.u32("inherited filters");
    return {
      inheritedFilters,
      state,
      waitStatus,
      fields,
      shimNamespaces,
      spawnerNamespaces,
      ownNamespaces,
    };
  });
}

export function parseStopShimReply(bytes: Uint8Array): void {
  parseReply(bytes, SPAWNER_OPS.stopShim, () => undefined);
}

/** How many workloads were started. */
export function parseStartWorkloadsReply(bytes: Uint8Array): number {
  return parseReply(bytes, SPAWNER_OPS.startWorkloads, (reader) => reader.u16("count"));
}

/** Throws AgentError `ERR_STATE_VOLUME` with `state` for each of the spawner's words about the volume. */
export function parseOpenStateReply(bytes: Uint8Array): StateVolume {
  const parseBody = (reader: ByteReader): StateVolume => {
    const formatted = reader.u8("formatted");
    if (formatted > 1)
      throw new AgentError("ERR_SPAWNER", "open-state: formatted", { expected: "0 or 1", got: `${formatted}` });
    return { formatted: formatted === 1, volumeId: reader.bytes(16, "volume id"), bytes: reader.u64("bytes") };
  };
  return parseReply(bytes, SPAWNER_OPS.openState, parseBody, stateVolumeRefusal);
}

function stateVolumeRefusal(message: string): AgentError {
  const [word = "", ...detail] = message.split(": ");
  const state = STATE_PROBLEMS.find((problem) => problem === word);
  if (state === undefined || detail.length === 0) return refusal(message);
  return new AgentError("ERR_STATE_VOLUME", `state volume: ${detail.join(": ")} (${state})`, { state });
}

function refusal(message: string): AgentError {
  return new AgentError("ERR_SPAWNER", `spawner refused: ${message}`);
}

/** Status 1 and every malformed reply end in AgentError ERR_SPAWNER, unless `refused` makes another one of status 1. */
function parseReply<T>(
  bytes: Uint8Array,
  op: SpawnerOp,
  body: (reader: ByteReader) => T,
  refused: (message: string) => AgentError = refusal,
): T {
  try {
    const reader = new ByteReader(bytes, "spawner reply");
    const got = reader.u8("op");
    if (got !== op)
      throw new AgentError("ERR_SPAWNER", "spawner reply: op", {
        expected: `${op}`,
        got: `${got}`,
      });
    const status = reader.u8("status");
    if (status === 1) throw refused(text(reader.bytes(reader.remaining, "message")));
    if (status !== 0)
      throw new AgentError("ERR_SPAWNER", "spawner reply: status", {
        expected: "0 or 1",
        got: `${status}`,
      });
    const value = body(reader);
    reader.end();
    return value;
  } catch (error) {
    if (error instanceof PolicyError) throw new AgentError("ERR_SPAWNER", error.message, { cause: error });
    throw error;
  }
}

function size(value: bigint): number {
  if (value > BigInt(Number.MAX_SAFE_INTEGER))
    throw new AgentError("ERR_SPAWNER", "prepare-shim: size", {
      expected: "a file's size",
      got: `${value}`,
    });
  return Number(value);
}

/** For people and for /proc texts: what is not UTF-8 is shown as such, never thrown over. */
function text(bytes: Uint8Array): string {
  return new TextDecoder().decode(bytes);
}

function pairs(lines: string, separator: string): ReadonlyMap<string, string> {
  const found = lines.split("\n").flatMap((line): readonly (readonly [string, string])[] => {
    const at = line.indexOf(separator);
    return at < 0 ? [] : [[line.slice(0, at), line.slice(at + 1).trim()]];
  });
  return new Map(found);
}
