import { spawn } from "node:child_process";
import { SealError } from "./errors.ts";
import { MAX_ANSWER_BYTES, UNSEALER_MS, type Unsealer } from "./unseal.ts";
import { isWaiting, parseUnsealAnswer, type UnsealAnswer } from "./unseal-answer.ts";

/** Packets with descriptors, for which Node has no function. */
export interface PacketTransport {
  socketPair(type: "seqpacket"): readonly [number, number];
  /** One packet there, and one back. */
  call(
    fd: number,
    packet: Uint8Array,
    sendFds: readonly number[],
    maxReply: number,
    timeoutMs: number,
  ): Promise<{ readonly bytes: Uint8Array }>;
  closeFd(fd: number): void;
}

/**
 * An unsealer that was started before anything was measured, and is there when it is needed (FORMATS.md, section 8, `--wait`). It asks for
 * the secret only when it is told to: not when this process ends.
 */
export interface StandbyUnsealer {
  /** It does everything but TPM2_Unseal. Once. */
  prepare(request: Uint8Array): void;
  /**
   * It asks, and writes into the sinks. After `prepare`, and once. What `runUnsealer` answers, which also throws as that does.
   * @param sinks as many as the request says; stay the caller's
   */
  ask(sinks: readonly number[]): Promise<UnsealAnswer>;
  /** Resolves when it has ended, which it does without having asked unless it was told to. May be called twice. */
  end(): Promise<void>;
}

/** Any one byte. */
const ASK = Uint8Array.of(1);

export function openStandbyUnsealer(
  { path, tcti, timeout = UNSEALER_MS }: Pick<Unsealer, "path" | "tcti" | "timeout">,
  transport: PacketTransport,
): StandbyUnsealer {
  const [socket, its] = transport.socketPair("seqpacket");
  const child = spawn(path, [tcti, "--wait"], { stdio: [its, its, "ignore"], env: {} });
  transport.closeFd(its);
  const gone = new Promise<void>((resolve) => {
    child.once("error", () => resolve()); // whoever says something to it is told
    child.once("exit", () => resolve());
  });
  const transmit = async (packet: Uint8Array, fds: readonly number[]): Promise<Uint8Array> => {
    try {
      return (await transport.call(socket, packet, fds, MAX_ANSWER_BYTES, timeout)).bytes;
    } catch (cause) {
      child.kill("SIGKILL");
      const got = cause instanceof Error ? cause.message : String(cause);
      const expected = "a program that starts, and answers in time";
      throw new SealError("ERR_UNSEALER", `unsealer ${path}`, { expected, got, cause });
    }
  };
  /** What it said last, or will. */
  let said: Promise<Uint8Array> | null = null;
  const say = (packet: Uint8Array, fds: readonly number[]): Promise<Uint8Array> => {
    said = transmit(packet, fds);
    said.catch(() => undefined); // whoever asks is told
    return said;
  };
  const end = async (): Promise<void> => {
    await said?.catch(() => undefined); // while a packet is on its way the descriptor has to stay this one's
    transport.closeFd(socket);
    if (said === null) child.kill("SIGKILL"); // it has nothing in the TPM, and may not have come to read
    const timer = setTimeout(() => child.kill("SIGKILL"), timeout);
    await gone;
    clearTimeout(timer);
  };
  let ending: Promise<void> | null = null;
  return {
    prepare: (request) => {
      if (said !== null || ending !== null) throw new TypeError("unsealer: has its request, or has ended");
      void say(request, []);
    },
    ask: async (sinks) => {
      if (said === null || ending !== null) throw new TypeError("unsealer: has no request, or has ended");
      const line = await said;
      return parseUnsealAnswer(isWaiting(line) ? await say(ASK, sinks) : line);
    },
    end: () => {
      ending ??= end();
      return ending;
    },
  };
}
