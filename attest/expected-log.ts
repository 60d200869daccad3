import { AGENT_PCR, fromHex, IronclawError } from "../policy/index.ts";
import { pcrBanks } from "./banks.ts";
import { type AgentLog, celRecord, encodeCel, readCel, replayCel } from "./cel.ts";
import type { ReferenceValues } from "./finding.ts";
import type { KnownLog } from "./known-log.ts";

const nothing = { bytes: new Uint8Array(), records: [] } as const;

/**
 * How the log of a machine that runs this release begins: everything up to the login is predicted. As large as the release's events make it, and
 * worth making where more than one report is compared with the release. Of events that no log can have, nothing is known.
 */
export function expectedLog({ events }: Pick<ReferenceValues, "events">): KnownLog {
  const { bytes, records } = readBack(events) ?? nothing;
  return { bytes, records, pcrs: new Map(pcrBanks.map((bank) => [bank, replayCel(records, bank)])) };
}

/** Read as a report's log is: a release may have names that are longer than a log's, and these must be refused there whatever is known. */
function readBack(events: ReferenceValues["events"]): AgentLog | null {
  if (!events.every(({ name }) => name.isWellFormed())) return null;
  try {
    return readCel(
      encodeCel(
        events.map(({ kind, name, sha256 }, index) =>
          celRecord(index, AGENT_PCR, { kind, name, sha256: fromHex(sha256, "release event sha256") }),
        ),
      ),
      [],
    );
  } catch (error) {
    if (error instanceof IronclawError) return null;
    throw error;
  }
}
