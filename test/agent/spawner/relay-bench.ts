import { once } from "node:events";
import { existsSync, readFileSync, readlinkSync } from "node:fs";
import { type AddressInfo, createServer, type Server, type Socket } from "node:net";
import { afterAll, afterEach, beforeAll, expect } from "vitest";
import type { Endpoint } from "../../../agent/spawner-client.ts";
import { type Door, type DoorOptions, openDoor, PROFILE } from "./door.ts";
import { buildPrograms, type HostOptions, type HostSpawner, type Programs, startSpawner } from "./host.ts";

/** Built before the tests of the file that loads this, and removed after them. */
export let programs: Programs;
const running: HostSpawner[] = [];
const servers: { readonly server: Server; readonly sockets: Set<Socket> }[] = [];

beforeAll(() => {
  programs = buildPrograms();
});
afterAll(() => programs.remove());
afterEach(async () => {
  for (const spawner of running.splice(0)) await spawner.stop();
  for (const { server, sockets } of servers.splice(0)) {
    for (const socket of sockets) socket.destroy();
    server.close();
  }
});

export async function started(options: HostOptions = {}): Promise<HostSpawner> {
  const spawner = await startSpawner(programs, { cabinet: PROFILE, ...options });
  running.push(spawner);
  return spawner;
}

/** A service of the machine that the test runs on. */
export async function target(where: string | { host: string }, serve: (socket: Socket) => void, halfOpen = false) {
  const sockets = new Set<Socket>();
  const server = createServer({ allowHalfOpen: halfOpen }, (socket) => {
    sockets.add(socket);
    socket.on("error", () => undefined).on("close", () => sockets.delete(socket));
    serve(socket);
  });
  if (typeof where === "string") server.listen({ path: where, writableAll: where.startsWith("/") });
  else server.listen(0, where.host);
  await once(server, "listening");
  servers.push({ server, sockets });
  const address = server.address();
  const port = typeof address === "string" ? 0 : (address as AddressInfo).port;
  return { server, sockets, port };
}

export const echo = (socket: Socket): void => void socket.pipe(socket);

export async function withEndpoints(connect: readonly Endpoint[], options: DoorOptions = {}) {
  const spawner = await started();
  const door = await openDoor(spawner, programs, { connect, ...options });
  return { spawner, door };
}

/** The one child of the spawner that runs the relay's program. */
export async function relayPid(spawner: HostSpawner, not = -1): Promise<number> {
  const children = () => readFileSync(`/proc/${spawner.pid}/task/${spawner.pid}/children`, "utf8").trim().split(" ");
  const isRelay = (pid: string) => {
    try {
      return readlinkSync(`/proc/${pid}/exe`) === programs.relay && Number(pid) !== not;
    } catch {
      return false; // it ended meanwhile
    }
  };
  await expect.poll(() => children().some(isRelay), { timeout: 20_000 }).toBe(true);
  return Number(children().find(isRelay));
}

export const isAlive = (pid: number): boolean => existsSync(`/proc/${pid}`) && !/^State:\s+Z/m.test(statusOf(pid));

export function statusOf(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/status`, "utf8");
  } catch {
    return "";
  }
}

export async function exchange(door: Door, fd: number, words: string): Promise<string> {
  await door.ask(`send ${fd} ${words}`);
  return door.ask(`receive ${fd}`);
}
