import { connect, createServer, type Server, type Socket } from "node:net";
import { join } from "node:path";
import type { SoftwareTpm } from "./swtpm.ts";

/** Somebody on the TPM's bus: sees all traffic and puts commands of its own between those of the client. */
export interface Interposer extends AsyncDisposable {
  readonly tcti: string;
  /** Commands and responses, in order. */
  readonly traffic: readonly Buffer[];
  /** Command codes seen, in order. */
  readonly commands: readonly number[];
  /** TPM2_Unseal commands seen. */
  readonly unseals: number;
}

export interface InterposerOptions {
  /** Before this many TPM2_Unseal commands, PCR 0 is extended. */
  readonly extendBeforeUnseal?: number;
  /** Answers in the TPM's place. */
  readonly rewrite?: (commandCode: number, response: Buffer) => Buffer;
}

const COMMAND_UNSEAL = 0x15e;
/** TPM2_PCR_Extend of PCR 0, SHA-256 bank, empty password. */
const EXTEND_PCR_0 = Buffer.concat([
  Buffer.from("8002" + "00000041" + "00000182" + "00000000", "hex"),
  Buffer.from("00000009" + "40000009" + "0000" + "00" + "0000", "hex"),
  Buffer.from("00000001" + "000b", "hex"),
  Buffer.alloc(32, 0x5a),
]);

export async function openInterposer(
  tpm: SoftwareTpm,
  { extendBeforeUnseal = 0, rewrite = (_, response) => response }: InterposerOptions = {},
): Promise<Interposer> {
  const target = join(tpm.directory, "tpm.sock");
  const path = join(tpm.directory, `interposer-${extendBeforeUnseal}.sock`);
  const traffic: Buffer[] = [];
  const codes: number[] = [];
  const seen = { unseals: 0, command: 0 };
  const commands = createServer((client) => {
    const upstream = connect(target);
    const injected = { pending: 0 };
    whole(client, (command) => {
      traffic.push(command);
      seen.command = command.readUInt32BE(6);
      codes.push(seen.command);
      if (seen.command === COMMAND_UNSEAL) {
        seen.unseals += 1;
        if (seen.unseals <= extendBeforeUnseal) {
          injected.pending += 1;
          upstream.write(EXTEND_PCR_0);
          // The TPM takes one command at a time: the client's waits for the answer to ours.
          upstream.once("injected", () => upstream.write(command));
          return;
        }
      }
      upstream.write(command);
    });
    whole(upstream, (response) => {
      if (injected.pending > 0) {
        injected.pending -= 1;
        if (response.readUInt32BE(6) !== 0)
          throw new Error(`the injected extend got 0x${response.readUInt32BE(6).toString(16)}`);
        upstream.emit("injected");
        return;
      }
      traffic.push(response);
      client.write(rewrite(seen.command, response));
    });
    tie(client, upstream);
  });
  const control = createServer((client) => {
    const upstream = connect(`${target}.ctrl`);
    client.pipe(upstream);
    upstream.pipe(client);
    tie(client, upstream);
  });
  await Promise.all([listen(commands, path), listen(control, `${path}.ctrl`)]);
  return {
    tcti: `swtpm:path=${path}`,
    traffic,
    commands: codes,
    get unseals() {
      return seen.unseals;
    },
    [Symbol.asyncDispose]: async () => {
      await Promise.all([commands, control].map((server) => new Promise((resolve) => server.close(resolve))));
    },
  };
}

/** Calls back with each whole TPM command or response: tag u16, size u32, code u32. */
function whole(socket: Socket, use: (message: Buffer) => void): void {
  let buffered = Buffer.alloc(0);
  socket.on("data", (chunk: Buffer) => {
    buffered = Buffer.concat([buffered, chunk]);
    while (buffered.length >= 10 && buffered.length >= buffered.readUInt32BE(2)) {
      const size = buffered.readUInt32BE(2);
      use(buffered.subarray(0, size));
      buffered = buffered.subarray(size);
    }
  });
}

/** When one side ends so does the other. */
function tie(a: Socket, b: Socket): void {
  for (const [from, to] of [
    [a, b],
    [b, a],
  ] as const) {
    from.on("error", () => to.destroy());
    from.on("close", () => to.destroy());
  }
}

async function listen(server: Server, path: string): Promise<void> {
  await new Promise<void>((resolve) => server.listen(path, resolve));
}
