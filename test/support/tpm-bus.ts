import { once } from "node:events";
import { connect, createServer, type Server, type Socket } from "node:net";
import { join } from "node:path";
import type { SoftwareTpm } from "./swtpm.ts";

/** Who speaks: each has a socket of its own. The TCTI opens a connection for every command, so nothing else tells them apart. */
export const BUS_CLIENTS = ["agent", "unsealer", "other"] as const;
export type BusClient = (typeof BUS_CLIENTS)[number];

/** One command as the TPM got it, or would have. */
export interface BusCommand {
  readonly client: BusClient;
  /** Commands of all clients are numbered from 0 since `arm`. */
  readonly index: number;
  /** TPM_CC. */
  readonly code: number;
}

/** What somebody on the bus says in the TPM's place. */
export interface BusAnswer {
  /** Whether the TPM gets the command; only its answer is lost then. */
  readonly obeyed: boolean;
  /** @param real the TPM's own answer, to a command that it got; else one of success without a body */
  readonly answer: (real: Buffer) => Buffer;
  /** Whether the connection ends with that. */
  readonly hangsUp?: boolean;
}

/** `refuse`: the TPM does not see the command. `lose`: it obeys, and its answer is lost. Both answer TPM_RC_FAILURE. */
export type BusFault = "refuse" | "lose" | BusAnswer | null;

/** Stands before a software TPM: sees every command, and fails the ones that a test chooses. */
export interface TpmBus extends AsyncDisposable {
  tcti(client: BusClient): string;
  /** Path of the command channel, for a client that speaks the TPM's own format. */
  path(client: BusClient): string;
  /** Since the last `arm`. */
  readonly commands: readonly BusCommand[];
  /** How long the TPM took over each of them, in milliseconds, by its index. */
  readonly times: readonly number[];
  /** Forget the commands so far, and from now on do this to the next ones. */
  arm(fault?: (command: BusCommand) => BusFault | Promise<BusFault>): void;
  /** What /dev/tpmrm0 does when a client has gone: none of its objects and sessions stays in the TPM. */
  flushClient(client: BusClient): Promise<void>;
  /** Objects and sessions that the TPM made for a client, and that nobody has flushed. */
  held(client: BusClient): readonly number[];
}

export const TPM_CC = {
  ...{ createPrimary: 0x131, load: 0x157, import: 0x156, unseal: 0x15e, flushContext: 0x165, readPublic: 0x173 },
  ...{ startAuthSession: 0x176, pcrExtend: 0x182, pcrRead: 0x17e, getCapability: 0x17a, loadExternal: 0x167 },
  ...{ verifySignature: 0x177, policySecret: 0x151, policyOr: 0x171, policyPcr: 0x17f, policyNv: 0x149 },
  ...{ policyAuthorize: 0x16a, policyCommandCode: 0x16c, policyNvWritten: 0x18f },
  ...{ quote: 0x158, sign: 0x15d, contextLoad: 0x161 },
  ...{ nvDefineSpace: 0x12a, nvIncrement: 0x134, nvWrite: 0x137, nvSetBits: 0x135, nvRead: 0x14e, nvReadPublic: 0x169 },
} as const;
/** CreatePrimary, LoadExternal, Load, StartAuthSession, ContextLoad: their answers begin with a handle to flush later. */
const MAKES_HANDLE: ReadonlySet<number> = new Set([0x131, 0x167, 0x157, 0x176, 0x161]);
const FAILURE = Buffer.from("80010000000a00000101", "hex");
const EMPTY = Buffer.from("80010000000a00000000", "hex");
const FAULTS: Readonly<Record<"refuse" | "lose", BusAnswer>> = {
  refuse: { obeyed: false, answer: () => FAILURE },
  lose: { obeyed: true, answer: () => FAILURE },
};

export async function openTpmBus(tpm: SoftwareTpm): Promise<TpmBus> {
  const target = join(tpm.directory, "tpm.sock");
  const path = (client: BusClient) => join(tpm.directory, `bus-${client}.sock`);
  const state = {
    commands: [] as BusCommand[],
    times: [] as number[],
    fault: (_: BusCommand): BusFault | Promise<BusFault> => null,
  };
  const handles = new Map<BusClient, Set<number>>(BUS_CLIENTS.map((client) => [client, new Set()]));
  const transmit = oneAtATime(target);
  const obey = async ({ client, index, code }: BusCommand, command: Buffer): Promise<Buffer> => {
    const [response, ms] = await transmit(command);
    state.times[index] = ms;
    keepHandles(handles.get(client) ?? new Set(), code, command, response);
    return response;
  };
  const answer = async (client: BusClient, command: Buffer, socket: Socket): Promise<void> => {
    const seen = { client, index: state.commands.length, code: command.readUInt32BE(6) };
    state.commands.push(seen);
    const met = await state.fault(seen);
    const fault = typeof met === "string" ? FAULTS[met] : met;
    const response = fault === null || fault.obeyed ? await obey(seen, command) : EMPTY;
    socket.write(fault?.answer(response) ?? response);
    if (fault?.hangsUp) socket.destroySoon();
  };
  const servers = BUS_CLIENTS.flatMap((client) => [
    listen(path(client), (socket) => whole(socket, (command) => answer(client, command, socket))),
    listen(`${path(client)}.ctrl`, (socket) => tie(socket, connect(`${target}.ctrl`))),
  ]);
  await Promise.all(servers.map((server) => once(server, "listening")));
  return {
    path,
    tcti: (client) => `swtpm:path=${path(client)}`,
    get commands() {
      return state.commands;
    },
    get times() {
      return state.times;
    },
    arm: (fault: (command: BusCommand) => BusFault | Promise<BusFault> = () => null) => {
      Object.assign(state, { commands: [], times: [], fault });
    },
    flushClient: async (client) => {
      for (const handle of handles.get(client) ?? []) await transmit(flushContext(handle));
      handles.get(client)?.clear();
    },
    held: (client) => [...(handles.get(client) ?? [])],
    [Symbol.asyncDispose]: async () => {
      for (const server of servers) server.close();
    },
  };
}

function listen(path: string, serve: (socket: Socket) => void): Server {
  return createServer((socket) => {
    socket.on("error", () => socket.destroy());
    serve(socket);
  }).listen(path);
}

/** swtpm serves one connection at a time: each command has its own, after the one before it was answered. With the answer its milliseconds. */
function oneAtATime(target: string): (command: Buffer) => Promise<readonly [answer: Buffer, ms: number]> {
  let last: Promise<unknown> = Promise.resolve();
  const ask = async (command: Buffer): Promise<readonly [Buffer, number]> => {
    const began = performance.now();
    const socket = connect(target);
    try {
      const answer = await new Promise<Buffer>((resolve, reject) => {
        socket.on("error", reject);
        socket.on("close", () => reject(new Error("the software TPM hung up")));
        whole(socket, async (response) => resolve(response));
        socket.write(command);
      });
      return [answer, performance.now() - began];
    } finally {
      socket.destroy();
    }
  };
  return (command) => {
    const turn = last.then(() => ask(command));
    last = turn.catch(() => undefined);
    return turn;
  };
}

function tie(a: Socket, b: Socket): void {
  for (const [from, to] of [
    [a, b],
    [b, a],
  ] as const) {
    from.pipe(to);
    from.on("error", () => to.destroy());
    from.on("close", () => to.destroy());
  }
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

function flushContext(handle: number): Buffer {
  const command = Buffer.from("80010000000e0000016500000000", "hex");
  command.writeUInt32BE(handle, 10);
  return command;
}
