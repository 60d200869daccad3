// A client that opens and closes sessions as fast as it is answered: open-flood.ts SOCKET CONNECTIONS, half of them at each door, until its
// standard input ends. Then it prints how many it opened.
import { OPS } from "../../agent/client/protocol.ts";
import { NativeClient, request } from "./native-client.ts";
import { INITIALIZE_VALUES, openRawClient, ulongs } from "./rpc-client.ts";

/** Until it is over; how many sessions it opened. Rejects when it is refused or the connection ends. */
export type Flood = (path: string, isOver: () => boolean) => Promise<number>;

export const floodP11kit: Flood = async (path, isOver) => {
  const client = await openRawClient(path);
  const answered = async (name: string, ...values: readonly Uint8Array[]): Promise<Uint8Array> => {
    const reply = await client.call(name, ...values);
    if (reply.rv !== 0n) throw new Error(`${name}: 0x${reply.rv.toString(16)}`);
    return reply.values;
  };
  await answered("C_Initialize", INITIALIZE_VALUES);
  let opened = 0;
  for (; !isOver(); opened += 1) {
    const session = await answered("C_OpenSession", ulongs(1n, 4n));
    await answered("C_CloseSession", session.slice(0, 8));
  }
  client.end();
  await client.closed();
  return opened;
};

export const floodNative: Flood = async (path, isOver) => {
  const client = await NativeClient.open(path);
  const answered = async (op: number, payload?: Uint8Array): Promise<Uint8Array> => {
    client.send(request(1, op, payload));
    const reply = await client.reply();
    if (reply.reason !== "done") throw new Error(`op ${op}: ${reply.reason}`);
    return reply.payload;
  };
  let opened = 0;
  for (; !isOver(); opened += 1) await answered(OPS.close, await answered(OPS.open));
  client.socket.end();
  await client.closed();
  return opened;
};

async function main([path = "", connections = ""]: readonly string[]): Promise<void> {
  let isOver = false;
  process.stdin.resume().once("end", () => {
    isOver = true;
  });
  const floods = Array.from({ length: Number(connections) }, (_, index) =>
    (index % 2 === 0 ? floodP11kit : floodNative)(path, () => isOver),
  );
  const opened = await Promise.all(floods);
  console.log(opened.reduce((sum, count) => sum + count, 0));
}

if (import.meta.main) await main(process.argv.slice(2));
