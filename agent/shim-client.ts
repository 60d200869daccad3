import { ByteReader } from "../policy/index.ts";
import { AgentError } from "./errors.ts";
import type { Attempt, Native, Watch } from "./native/index.ts";
import { parseFrame, type Reply, ShimConnection } from "./shim-connection.ts";
import {
  type LoadedLibrary,
  MAX_FRAME,
  type ProbeAttempt,
  parseFilters,
  parseHandle,
  parseKeys,
  parseLoaded,
  parseNothing,
  parsePlaintext,
  parseProbe,
  parseReady,
  parseSignature,
  parseStatus,
  type ShimKey,
  type ShimReady,
} from "./shim-replies.ts";
import {
  type DecryptRequest,
  encodeDecrypt,
  encodePath,
  encodeSign,
  encodeSlot,
  encodeUnwrap,
  encodeUses,
  type KeyUse,
  OP,
  type SignRequest,
  type UnwrapRequest,
} from "./shim-requests.ts";

export type {
  DecryptRequest,
  KeyUse,
  OaepParameters,
  PssParameters,
  SignRequest,
  UnwrapRequest,
} from "./shim-requests.ts";

/**
 * A shim, as the agent uses it. Every method rejects with AgentError: ERR_SHIM_REFUSED (`rv` tells why; the shim lives
 * on), or ERR_SHIM_PROTOCOL, ERR_SHIM_TIMEOUT, ERR_SHIM_GONE (the connection is closed).
 *
 * Nothing a shim says about itself is proof: once the library is loaded, the library could be saying it.
 */
export interface Shim {
  readonly ready: ShimReady;
  /** Tries what must be impossible. Before `load` only. */
  probe(): Promise<readonly ProbeAttempt[]>;
  /**
   * Lets the shim take a secret from its credential channel into a new file of its own, readable by itself alone. Before `load`
   * only. The directory must exist and be writable under the profile. After a failure the shim is of no use.
   */
  credential(path: string): Promise<void>;
  /** Loads and initialises the library at an absolute path of the shim's own root. Once. */
  load(path: string): Promise<LoadedLibrary>;
  /**
   * Lets the shim take the PIN from its credential channel and log in to a slot's token. Once: a failure is not tried again.
   * `rv` SHIM_RV.notTried: the token has lost no try.
   */
  login(slotId: bigint): Promise<void>;
  /** The private and secret keys of the token. */
  keys(slotId: bigint): Promise<readonly ShimKey[]>;
  /** Fixes what each key is for; all others are for nothing. Once, before `arm`. */
  uses(uses: readonly KeyUse[]): Promise<void>;
  sign(request: SignRequest): Promise<Uint8Array>;
  decrypt(request: DecryptRequest): Promise<Uint8Array>;
  /**
   * Gives the handle of the key, which is neither extractable nor for anything but `use`. `rv` SHIM_RV.unfit, unfitOnToken: the token
   * made another one. Does not establish that nobody knows the key: whoever wrapped it may.
   */
  unwrap(request: UnwrapRequest): Promise<bigint>;
  /** Installs the serve filter: no new executable memory; from here on no key without a use works. Gives the number of filters. Once. */
  arm(): Promise<number>;
  /** Signatures and decryptions made, and keys unwrapped, so far. */
  status(): Promise<bigint>;
  /** Watch-listed attempts by system-call number, as counted from the kernel's notifications. */
  attempts(): Readonly<Record<number, number>>;
  /** Attempts as they are recorded: total, the first ones with their arguments. Outlives the shim. */
  readonly watch: Omit<Watch, "counts">;
  close(): void;
  /** Settles when the connection has ended, with the reason. Never rejects. */
  readonly closed: Promise<AgentError>;
}

export interface ShimOptions {
  /** For each request, in milliseconds. Default 10,000. */
  readonly timeoutMs?: number;
  /** The first 64 watch-listed attempts. */
  readonly onAttempt?: (attempt: Attempt) => void;
}

/**
 * Takes over the request socket of a started shim: waits for READY, and supervises the filter whose listener comes with it.
 *
 * @throws AgentError ERR_SHIM_PROTOCOL, ERR_SHIM_GONE or ERR_NATIVE; `fd` is closed then
 */
export async function openShim(fd: number, native: Native, options: ShimOptions = {}): Promise<Shim> {
  const timeoutMs = options.timeoutMs ?? 10_000;
  const { ready, listener } = await receiveReady(fd, native, timeoutMs);
  const watch = native.watchNotifications(listener, options.onAttempt ?? (() => undefined));
  const { promise: closed, resolve } = Promise.withResolvers<AgentError>();
  const connection = new ShimConnection(native.openStream(fd), timeoutMs, resolve);
  const ask = async <T>(op: keyof typeof OP, payload: Uint8Array, parse: (payload: Uint8Array) => T): Promise<T> => {
    const reply = await connection.request(OP[op], payload);
    if (reply.rv !== 0n) throw refused(op, reply);
    return parseOrClose(connection, op, () => parse(reply.payload));
  };
  const nothing = new Uint8Array(0);
  return {
    ready,
    closed,
    probe: () => ask("probe", nothing, parseProbe),
    credential: (path) => ask("credential", encodePath(path), parseNothing),
    load: (path) => ask("load", encodePath(path), parseLoaded),
    login: (slotId) => ask("login", encodeSlot(slotId), parseNothing),
    keys: (slotId) => ask("keys", encodeSlot(slotId), parseKeys),
    uses: (uses) => ask("uses", encodeUses(uses), parseNothing),
    sign: (request) => ask("sign", encodeSign(request), parseSignature),
    decrypt: (request) => ask("decrypt", encodeDecrypt(request), parsePlaintext),
    unwrap: (request) => ask("unwrap", encodeUnwrap(request), parseHandle),
    arm: () => ask("arm", nothing, parseFilters),
    status: () => ask("status", nothing, parseStatus),
    attempts: () => watch.counts(),
    watch,
    close: () => connection.close(new AgentError("ERR_SHIM_GONE", "shim connection: closed by the agent")),
  };
}

async function receiveReady(
  fd: number,
  native: Native,
  timeoutMs: number,
): Promise<{ ready: ShimReady; listener: number }> {
  let fds: readonly number[] = [];
  try {
    const message = await native.receiveWithFds(fd, MAX_FRAME, timeoutMs);
    fds = message.fds;
    if (message.bytes.length === 0) throw new AgentError("ERR_SHIM_GONE", "shim READY: the shim ended before it");
    const ready = parseReadyMessage(message.bytes);
    const [listener] = fds;
    if (listener === undefined || fds.length !== 1) {
      throw new AgentError("ERR_SHIM_PROTOCOL", "shim READY: descriptors", { expected: "1", got: `${fds.length}` });
    }
    return { ready, listener };
  } catch (cause) {
    for (const other of [...fds, fd]) native.closeFd(other);
    if (cause instanceof AgentError) throw cause;
    throw new AgentError("ERR_SHIM_PROTOCOL", "shim READY: malformed", { cause });
  }
}

/** The shim sends READY in one piece and nothing else before the first request. */
function parseReadyMessage(bytes: Uint8Array): ShimReady {
  const reader = new ByteReader(bytes, "READY");
  const frame = parseFrame(reader.sized32("frame", MAX_FRAME));
  reader.end();
  if (frame.id !== 0 || frame.op !== OP.ready || frame.rv !== 0n) {
    throw new AgentError("ERR_SHIM_PROTOCOL", "shim READY", { expected: "id 0, op 1, rv 0", got: `op ${frame.op}` });
  }
  return parseReady(frame.payload);
}

function refused(op: string, reply: Reply): AgentError {
  // Only LOAD and LOGIN explain themselves; a text may be the loader's, so nothing but plain characters goes on.
  const text = new TextDecoder().decode(reply.payload.slice(0, 512)).replace(/[^\x20-\x7e]/g, "?");
  const got = `0x${reply.rv.toString(16)}${text === "" ? "" : ` (${text})`}`;
  return new AgentError("ERR_SHIM_REFUSED", `shim ${op} rv`, { expected: "0x0", got, rv: reply.rv });
}

function parseOrClose<T>(connection: ShimConnection, op: string, parse: () => T): T {
  try {
    return parse();
  } catch (cause) {
    const error =
      cause instanceof AgentError
        ? cause
        : new AgentError("ERR_SHIM_PROTOCOL", `shim ${op} reply: malformed`, { cause });
    connection.close(error);
    throw error;
  }
}
