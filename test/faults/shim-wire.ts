import { Socket } from "node:net";
import type { Native } from "../../agent/native/index.ts";
import { openShim, type Shim, type ShimOptions } from "../../agent/shim-client.ts";
import { OP } from "../../agent/shim-requests.ts";

/** A frame between an agent and its shim, with its length field (SHIM.md). */
export interface WireFrame {
  readonly way: "request" | "reply";
  /** Of frames in this direction, from 0. */
  readonly index: number;
  readonly op: string;
  readonly bytes: Buffer;
}

/** What becomes of one frame. Bytes that are not passed on are lost; with `end` the shim's end of the connection is closed behind them. */
export type Tamper = (
  frame: WireFrame,
) => { readonly send: readonly Uint8Array[]; readonly end?: boolean } | "hold" | null;

/** Stands between an agent and a real shim. READY, with its descriptor, comes directly: see shim-replies.test.ts. */
export interface ShimWire {
  readonly shim: Shim;
  readonly frames: readonly WireFrame[];
  /** What to do to the next frames, of which the first has index 0 again. `hold`: it goes out behind the next one of its direction. */
  arm(tamper: Tamper): void;
}

const OP_NAMES = new Map(Object.entries(OP).map(([name, op]) => [op as number, name]));

export async function openWiredShim(shimFd: number, native: Native, options: ShimOptions): Promise<ShimWire> {
  const [agentFd, ours] = native.socketPair("stream");
  const state = { tamper: (() => null) as Tamper, frames: [] as WireFrame[] };
  const join = () => {
    const [agent, shim] = [new Socket({ fd: ours }), new Socket({ fd: shimFd })];
    pass(agent, shim, "request", state);
    pass(shim, agent, "reply", state);
  };
  const between: Native = {
    ...native,
    receiveWithFds: async (_, max, timeoutMs) => {
      const ready = await native.receiveWithFds(shimFd, max, timeoutMs);
      join();
      return ready;
    },
  };
  const shim = await openShim(agentFd, between, options);
  return {
    shim,
    get frames() {
      return state.frames;
    },
    arm: (tamper) => Object.assign(state, { tamper, frames: [] }),
  };
}

interface WireState {
  tamper: Tamper;
  frames: WireFrame[];
}

function pass(from: Socket, to: Socket, way: WireFrame["way"], state: WireState): void {
  let buffered = Buffer.alloc(0);
  let held: Uint8Array[] = [];
  from.on("error", () => to.destroy());
  from.on("close", () => to.destroy());
  from.on("data", (chunk: Buffer) => {
    buffered = Buffer.concat([buffered, chunk]);
    while (buffered.length >= 4 && buffered.length >= 4 + buffered.readUInt32BE(0)) {
      const bytes = Buffer.from(buffered.subarray(0, 4 + buffered.readUInt32BE(0)));
      buffered = buffered.subarray(bytes.length);
      const index = state.frames.filter((frame) => frame.way === way).length;
      const op = OP_NAMES.get((bytes[8] ?? 0) & 0x7f) ?? "unknown";
      const frame = { way, index, op, bytes };
      state.frames.push(frame);
      const met = state.tamper(frame);
      if (met === "hold") {
        held.push(bytes);
        continue;
      }
      const { send, end = false } = met ?? { send: [bytes] };
      for (const part of [...send, ...held]) if (to.writable) to.write(part);
      held = [];
      if (end) to.destroySoon();
    }
  });
}
