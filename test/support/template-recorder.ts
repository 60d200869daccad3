import { existsSync, mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { Native } from "../../agent/native/index.ts";
import { type Bench, buildHostile, type Started, startShim, writeHostProfile } from "./shim-fixture.ts";

/** A module that writes down what it is asked for, and lies on demand: test/hostile/template-recorder.c. */
export interface TemplateRecorder {
  readonly library: string;
  readonly profile: string;
  /** A shim of its own, with a record of its own; not loaded yet. */
  start(timeoutMs?: number): Promise<RecordedShim>;
}

export interface RecordedShim extends Started {
  /** One line for each call, as the module's head says. */
  lines(): readonly string[];
}

/** Handles of the module's objects. All keys may do everything, so that only the shim stands in the way. */
export const RECORDER = { one: 1n, publicOne: 2n, data: 3n, two: 4n, kek: 5n, slot: 0n, otherSlot: 1n } as const;

export function makeTemplateRecorder(bench: Bench, addon: Native): TemplateRecorder {
  const directory = join(bench.directory, "records");
  mkdirSync(directory, { recursive: true });
  const profile = writeHostProfile(bench, { environment: {}, tokens: directory }, "recorder.profile");
  const library = buildHostile(bench, "template-recorder", "module");
  let shims = 0;
  return {
    library,
    profile,
    async start(timeoutMs) {
      const record = join(directory, `${shims++}`);
      const environment = { TEMPLATE_RECORDER: record };
      const started = await startShim(addon, {
        profile,
        environment,
        ...(timeoutMs === undefined ? {} : { timeoutMs }),
      });
      const lines = () => (existsSync(record) ? readFileSync(record, "utf8").split("\n").slice(0, -1) : []);
      return { ...started, lines };
    },
  };
}
