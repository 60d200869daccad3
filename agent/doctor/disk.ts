import { auditFiles } from "../audit/files.ts";
import { lowWater, reserve } from "../audit/limits.ts";
import type { AgentConfig } from "../config.ts";
import type { Files } from "./files.ts";
import { type Finding, fail, ok, warn } from "./finding.ts";

const MEBIBYTE = 1 << 20;

/** Room for the audit log, whether it lies on the encrypted volume, and whether the machine remembers anything from boot to boot. */
export function diskFindings(
  files: Files,
  config: Pick<AgentConfig, "auditLog" | "stateVolume" | "store">,
): readonly Finding[] {
  return [auditFinding(files, config), storeFinding(files, config)];
}

function auditFinding(files: Files, { auditLog, stateVolume }: Pick<AgentConfig, "auditLog" | "stateVolume">): Finding {
  const place = files.path(auditLog);
  try {
    const space = auditFiles.space(place);
    const got = `${auditLog}: ${Math.floor(space.free / MEBIBYTE)} of ${Math.ceil(space.total / MEBIBYTE)} MiB free`;
    if (space.free < reserve(space)) return fail("disk", { expected: `${reserve(space)} bytes free`, got });
    if (space.free < lowWater(space))
      return warn("disk", { expected: `${Math.floor(lowWater(space) / MEBIBYTE)} MiB free`, got });
    if (!stateVolume)
      return warn("disk", {
        ...{ expected: "the audit log on an encrypted, authenticated volume", got: `${got}; on a plain file system` },
        fix: "what is weaker without a state volume is in agent/docs/threat-model.md; our image has one",
      });
    return ok("disk", got);
  } catch {
    const got = `${auditLog} is not there`;
    return stateVolume
      ? warn("disk", {
          expected: "the audit log's directory",
          got: `${got}: its volume is opened by a launch`,
          fix: "look again while the machine serves",
        })
      : fail("disk", {
          expected: "the audit log's directory",
          got,
          fix: "make it, mode 0700, its owner the agent's user",
        });
  }
}

function storeFinding(files: Files, { store }: Pick<AgentConfig, "store">): Finding {
  const fix = "attach the machine's store: without it no reseal is taken in, and each boot imports anew";
  if (store === null) return warn("disk", { expected: "a store", got: "none: nothing is kept from boot to boot", fix });
  if (files.exists(store)) return ok("disk", `store ${store} is there`);
  return warn("disk", { expected: `store ${store}`, got: "not there", fix });
}
