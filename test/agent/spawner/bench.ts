import { createHash } from "node:crypto";
import { afterAll, afterEach, beforeAll } from "vitest";
import type { ShimFile } from "../../../agent/spawner-client.ts";
import { concatBytes, fromHex, utf8 } from "../../../policy/index.ts";
import { buildPrograms, type HostOptions, type HostSpawner, type Programs, startSpawner } from "./host.ts";

export const PROFILE = utf8("profile of the test\n");
export const TOKEN = utf8("token file");
export const CABINET = concatBytes(PROFILE, TOKEN);
export const sha256 = (bytes: Uint8Array): string => createHash("sha256").update(bytes).digest("hex");
export const profileSha256 = fromHex(sha256(PROFILE));

export const range = (path: string, offset: number, length: number, writable = false): ShimFile => ({
  path,
  source: { kind: "cabinet", offset, length },
  executable: false,
  writable,
});
export const rootFile = (path: string, from: string): ShimFile => ({
  path,
  source: { kind: "root", path: from },
  executable: false,
  writable: false,
});

export const NO_DEVICES = { nodes: [], connect: [] } as const;

/** What one test file needs: programs that are built once, and spawners that end with the test that started them. */
export interface SpawnerBench {
  /** From `beforeAll` on. */
  readonly programs: Programs;
  readonly running: HostSpawner[];
  started(options?: HostOptions): Promise<HostSpawner>;
}

/** Call it once in a file, outside of every test. */
export function openSpawnerBench(build: () => Programs = buildPrograms): SpawnerBench {
  let programs: Programs | null = null;
  const running: HostSpawner[] = [];
  const built = (): Programs => {
    if (programs === null) throw new Error("the programs are built before the first test");
    return programs;
  };
  beforeAll(() => {
    programs = build();
  });
  afterAll(() => programs?.remove());
  afterEach(async () => {
    for (const spawner of running.splice(0)) await spawner.stop();
  });
  return {
    get programs() {
      return built();
    },
    running,
    started: async (options = {}) => {
      const spawner = await startSpawner(built(), { cabinet: CABINET, ...options });
      running.push(spawner);
      return spawner;
    },
  };
}
