import { type Reason, reasonFrom } from "../../attest/index.ts";
import type { Policy } from "../../policy/index.ts";
import { commitServed, raiseEpoch } from "../../seal/index.ts";
import { enter, type LaunchEnvironment, type LaunchRecord } from "./environment.ts";
import { tpmStep } from "./unseal.ts";

/** Every scope has its socket. Under the lock, as each state of which a report may tell; a token that was stopped by then stays so. */
export async function enterServing(
  { log }: Pick<LaunchEnvironment, "log">,
  record: LaunchRecord,
  policy: Policy,
): Promise<void> {
  const scopes = policy.scopes.map(({ name }) => name);
  await log.locked(async () => {
    if (record.state.kind === "capping") enter(record, { kind: "serving", scopes });
  });
}

/**
 * What only a launch that serves may do: the generations that it used replace the earlier ones, and the release's epoch ends the
 * earlier ones. Neither holds up serving; what went wrong is returned, and is tried again at the next boot.
 */
export async function settleServed(environment: LaunchEnvironment, record: LaunchRecord): Promise<readonly Reason[]> {
  const problems: Reason[] = [];
  const attempt = async (item: string, act: () => unknown) => {
    try {
      await act();
    } catch (error) {
      problems.push(reasonFrom(error, item));
    }
  };
  for (const { sealed, envelope, imported } of record.unsealed) {
    const { name, generation, ekName } = sealed;
    const kept = environment.store.content.entries.find(
      (entry) => entry.name === name && entry.generation === generation,
    );
    const entry = { name, generation, package: envelope, imported: kept?.imported ?? imported };
    await attempt(`store entry of ${name}`, () => commitServed(environment.store, entry, ekName));
  }
  const { release } = record;
  const anchors = environment.inputs.partial.anchors;
  if (release?.raise != null && anchors !== undefined) {
    await attempt("epoch", () => tpmStep("epoch", () => raiseEpoch(environment.tss, anchors.releaseRoot, release)));
  }
  await attempt("counters on the state volume", async () => environment.stateVolume?.settle());
  return problems;
}
