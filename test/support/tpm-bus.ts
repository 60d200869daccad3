import { once } from "node:events";
import { connect, createServer, type Socket } from "node:net";
import { join } from "node:path";
import type { SoftwareTpm } from "./swtpm.ts";

/** One command as the TPM got it, or would have. */
export interface BusCommand {
  /** Connections are numbered from 0 in the order in which they were opened since `listen`. */
  readonly client: number;
  /** Commands of all clients are numbered from 0 since `listen`. */
  readonly index: number;
  /** TPM_CC. */
  readonly code: number;
}

/** `refuse`: the TPM does not see the command. `lose`: it obeys, and its answer is lost. Both answer TPM_RC_FAILURE. */
export type BusFault = "refuse" | "lose" | null;

/** What a guest's /dev/tpmrm0 does: several clients on one TPM, one command at a time, and nothing left of one that went. */
export interface TpmBus extends AsyncDisposable {
  readonly tcti: string;
  /** The command channel alone, for a client that speaks the TPM's own format. */
  readonly path: string;
  readonly commands: readonly BusCommand[];
  /** Begin again with command and client 0, after a power cycle of the TPM. */
  listen(fault?: (command: BusCommand) => BusFault): void;
}

export const TPM_CC = { pcrExtend: 0x182, unseal: 0x15e, flushContext: 0x165, pcrRead: 0x17e, quote: 0x158 } as const;
/** CreatePrimary, LoadExternal, Load, StartAuthSession, ContextLoad: their answers begin with a handle to flush later. */
const MAKES_HANDLE: ReadonlySet<number> = new Set([0x131, 0x167, 0x157, 0x176, 0x161]);
const FAILURE = Buffer.from("80010000000a00000101", "hex");

export async function openTpmBus(tpm: SoftwareTpm): Promise<TpmBus> {
  const target = join(tpm.directory, "tpm.sock");
  const path = join(tpm.directory, "bus.sock");
  const state = { commands: [] as BusCommand[], clients: 0, fault: (_: BusCommand): BusFault => null };
  const wire = upstream(target);
  const server = createServer((socket) => {
    const client = state.clients++;
    const handles = new Set<number>();
    whole(socket, async (command) => {
      const seen = { client, index: state.commands.length, code: command.readUInt32BE(6) };
      state.commands.push(seen);
      const fault = state.fault(seen);
      const response = fault === "refuse" ? FAILURE : await wire.transmit(command);
      keepHandles(handles, seen.code, command, response);
      if (!socket.destroyed) socket.write(fault === "lose" ? FAILURE : response);
    });
    socket.on("error", () => socket.destroy());
    socket.on("close", () => {
      for (const handle of handles) void wire.transmit(flush(handle)).catch(() => undefined);
    });
  });
  const control = createServer((socket) => {
    const other = connect(`${target}.ctrl`);
    for (const [from, to] of [
      [socket, other],
      [other, socket],
    ] as const) {
      from.pipe(to);
      from.on("error", () => to.destroy());
      from.on("close", () => to.destroy());
    }
  });
  await Promise.all([once(server.listen(path), "listening"), once(control.listen(`${path}.ctrl`), "listening")]);
  return {
    tcti: `swtpm:path=${path}`,
    path,
    get commands() {
      return state.commands;
    },
    listen: (fault = () => null) => {
      Object.assign(state, { commands: [], clients: 0, fault });
      wire.close();
    },
    [Symbol.asyncDispose]: async () => {
      wire.close();
      server.close();
      control.close();
    },
  };
}

/** The one connection that swtpm serves, opened again after a power cycle; commands wait for each other. */
function upstream(target: string): { transmit(command: Buffer): Promise<Buffer>; close(): void } {
  let socket: Socket | null = null;
  let last: Promise<unknown> = Promise.resolve();
  const once = (command: Buffer): Promise<Buffer> =>
    new Promise((resolve, reject) => {
      socket ??= connect(target);
      const own = socket;
      own.removeAllListeners();
      own.on("error", reject);
      own.on("close", () => reject(new Error("the software TPM hung up")));
      whole(own, async (response) => resolve(response));
      own.write(command);
    });
  return {
    transmit: (command) => {
      const turn = last.then(() => once(command));
      last = turn.catch(() => undefined);
      return turn;
    },
    close: () => {
      socket?.destroy();
      socket = null;
    },
  };
}

/** Calls back with each whole TPM command or response: tag u16, size u32, code u32. */
function whole(socket: Socket, use: (message: Buffer) => Promise<void>): void {
  let buffered = Buffer.alloc(0);
  socket.on("data", (chunk: Buffer) => {
    buffered = Buffer.concat([buffered, chunk]);
    while (buffered.length >= 10 && buffered.length >= buffered.readUInt32BE(2)) {
      const size = buffered.readUInt32BE(2);
      use(buffered.subarray(0, size)).catch(() => socket.destroy());
      buffered = buffered.subarray(size);
    }
  });
}

function keepHandles(handles: Set<number>, code: number, command: Buffer, response: Buffer): void {
  if (response.readUInt32BE(6) !== 0) return;
  if (MAKES_HANDLE.has(code)) handles.add(response.readUInt32BE(10));
  if (code === TPM_CC.flushContext) handles.delete(command.readUInt32BE(10));
}

function flush(handle: number): Buffer {
  const command = Buffer.from("80010000000e0000016500000000", "hex");
  command.writeUInt32BE(handle, 10);
  return command;
}
