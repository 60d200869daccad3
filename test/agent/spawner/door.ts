import { createHash } from "node:crypto";
import type { ShimFile, StartShim } from "../../../agent/spawner-client.ts";
import { utf8 } from "../../../policy/index.ts";
import { closureOf, type HostSpawner, type Programs } from "./host.ts";

export const PROFILE = utf8("profile of the test\n");

/** A running stand-in shim that does what it is told (door-shim.c), and its words. */
export interface Door {
  readonly id: number;
  readonly pid: number;
  /** Reading end of what it says, in the agent. */
  readonly fd: number;
  ask(command: string): Promise<string>;
  /** Like `ask`, for an answer that is a number; rejects with anything else. */
  number(command: string): Promise<number>;
}

export type DoorOptions = Partial<StartShim> & { readonly files?: readonly ShimFile[] };

export async function openDoor(spawner: HostSpawner, programs: Programs, options: DoorOptions = {}): Promise<Door> {
  const { id = 0, files = [], ...rest } = options;
  const profile: ShimFile = {
    path: "/profile",
    source: { kind: "cabinet", offset: 0, length: PROFILE.length },
    executable: false,
    writable: false,
  };
  await spawner.client.prepareShim(id, [...closureOf(programs.door), profile, ...files]);
  const { pid, fds } = await spawner.client.startShim({
    ...{ id, profileSha256: createHash("sha256").update(PROFILE).digest() },
    ...{ environment: [], writable: [], nodes: [], connect: [] },
    ...rest,
  });
  const ask = async (command: string): Promise<string> => {
    await spawner.write(fds.request, utf8(`${command}\n`));
    for (let text = ""; ; ) {
      const bytes = await spawner.read(fds.request);
      if (bytes.length === 0) throw new Error(`shim ${id}: ended after ${JSON.stringify(text)}`);
      text += new TextDecoder().decode(bytes);
      if (text.endsWith("\n")) return text.slice(0, -1);
    }
  };
  const number = async (command: string): Promise<number> => {
    const answer = await ask(command);
    if (!/^\d+$/.test(answer)) throw new Error(`${command}: ${answer}`);
    return Number(answer);
  };
  return { id, pid, fd: fds.request, ask, number };
}
