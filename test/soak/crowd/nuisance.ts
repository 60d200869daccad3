import { once } from "node:events";
import { connect, type Socket } from "node:net";
import { setTimeout as delay } from "node:timers/promises";
import { GREETING } from "../../support/native-client.ts";
import { floodNative, floodP11kit } from "../../support/open-flood.ts";
import { INITIALIZE_VALUES, openRawClient, requestFrame, ulongs } from "../../support/rpc-client.ts";
import type { Findings } from "./findings.ts";
import type { Workload } from "./plan.ts";

const INITIALIZE = requestFrame(0x10, "C_Initialize", INITIALIZE_VALUES);
/** What is sent on a connection before it is dropped. */
const BEGINNINGS: readonly Uint8Array[] = [
  new Uint8Array(),
  Uint8Array.of(0),
  Buffer.concat([Uint8Array.of(0), INITIALIZE.subarray(0, 20)]),
  Buffer.concat([Uint8Array.of(0), INITIALIZE]),
  GREETING.subarray(0, 3),
  GREETING,
  Uint8Array.of(0x7f, 1, 2, 3),
];
/** Connections at once: below what one scope may have, with its workload's own. */
const AT_ONCE = 8;

/** Opens and drops so many connections, spread over the scopes and over the time. */
export async function dropConnections(
  paths: readonly string[],
  count: number,
  findings: Findings,
  until: number,
): Promise<void> {
  const pause = Math.max(0, ((until - performance.now()) / count) * AT_ONCE * 0.8);
  for (let opened = 0; opened < count; opened += AT_ONCE) {
    const batch = Array.from({ length: Math.min(AT_ONCE, count - opened) }, (_, index) => {
      const number = opened + index;
      return dropOne(paths[number % paths.length] ?? "", BEGINNINGS[number % BEGINNINGS.length] ?? GREETING);
    });
    await Promise.all(batch);
    findings.faults += batch.length;
    await delay(pause);
  }
}

async function dropOne(path: string, bytes: Uint8Array): Promise<void> {
  const socket = await connected(path);
  if (bytes.length > 0) socket.write(bytes);
  await delay(5);
  socket.destroy();
}

/** Asks and never reads: the agent has answers that nobody takes, and a call that does not end. */
export async function beStuck(path: string, findings: Findings, until: number): Promise<void> {
  const socket = await connected(path);
  socket.pause();
  socket.write(Buffer.concat([Uint8Array.of(0), INITIALIZE]));
  const question = requestFrame(0x11, "C_GetInfo");
  // more than both sockets' buffers hold in answers
  for (let index = 0; index < 20_000; index++) socket.write(question);
  findings.faults += 1;
  while (performance.now() < until) await delay(100);
  socket.destroy();
}

/** Sends one byte after the other, and is answered all the same. */
export async function beSlow(path: string, findings: Findings, until: number): Promise<void> {
  const client = await openRawClient(path);
  let code = 0x10;
  while (performance.now() < until) {
    const name = code === 0x10 ? "C_Initialize" : "C_GetInfo";
    const frame = requestFrame(code, name, ...(code === 0x10 ? [INITIALIZE_VALUES] : []));
    const answer = client.reply();
    for (const byte of frame) {
      client.send(Uint8Array.of(byte));
      await delay(2);
    }
    const reply = await answer;
    if (reply.rv !== 0n || reply.code !== code) findings.violated("a slow client got another's answer");
    findings.faults += 1;
    code += 1;
  }
  client.end();
  await client.closed();
}

/** Connections of one flood, how long it lasts and how long it pauses, in milliseconds. */
const FLOOD = { connections: 16, lasts: 300, pauses: 1200 };

/** Opens and closes sessions as fast as it is answered, in bursts. */
export async function floodOpens(
  door: Workload["door"],
  path: string,
  findings: Findings,
  until: number,
): Promise<void> {
  const flood = door === "native" ? floodNative : floodP11kit;
  while (performance.now() < until) {
    const end = performance.now() + FLOOD.lasts;
    const floods = Array.from({ length: FLOOD.connections }, () => flood(path, () => performance.now() >= end));
    await Promise.all(floods);
    findings.faults += floods.length;
    await delay(FLOOD.pauses);
  }
}

const CKR_FUNCTION_REJECTED = 0x200n;

/** Asks for a session in one scope of other callers after the other, and gets none. */
export async function trespass(paths: readonly string[], findings: Findings, until: number): Promise<void> {
  for (let turn = 0; performance.now() < until; turn += 1) {
    const path = paths[turn % paths.length] ?? "";
    const client = await openRawClient(path);
    const { rv } = await client.call("C_OpenSession", ulongs(1n, 4n));
    if (rv !== CKR_FUNCTION_REJECTED)
      findings.violated(`${path}: 0x${rv.toString(16)} for the caller of another scope`);
    findings.faults += 1;
    client.end();
    await client.closed();
    await delay(400);
  }
}

async function connected(path: string): Promise<Socket> {
  const socket = connect(path);
  socket.on("error", () => undefined); // whoever drops a connection hears of it
  await Promise.race([once(socket, "connect"), once(socket, "close")]);
  return socket;
}
