import { type Reason, reason } from "../../attest/index.ts";
import { equalBytes, fromHex, type Policy, type Release, sortedModules, sortedTokens } from "../../policy/index.ts";
import {
  blocks,
  type CredentialKind,
  diagnoseUnseal,
  ekKindOfName,
  openEndorsementKey,
  PERMANENT,
  provisionEpoch,
  provisionRecords,
  readAnchor,
  readEpoch,
  readFreeze,
  readLogin,
  readPermanent,
  readTpmStates,
  type StoreContent,
  type TpmState,
  type UnsealFinding,
} from "../../seal/index.ts";
import type { LaunchEnvironment } from "./environment.ts";
import type { LaunchInputs } from "./inputs.ts";
import { tpmStep } from "./unseal.ts";

/** The sealed credential that opens the state volume. */
export const STATE_CREDENTIAL = "state";

/**
 * A TPM that this machine has never used, its first or one that replaces it, gets its epoch counter and records. One that it has used
 * and that lost them was cleared: that is for an operator to look at, so nothing is done here, and the diagnosis says so.
 */
export async function prepareTpm({ tss, store }: LaunchEnvironment, inputs: Partial<LaunchInputs>): Promise<void> {
  const { anchors, releases } = inputs;
  const [release] = releases ?? [];
  if (anchors === undefined || release === undefined) return;
  await tpmStep("TPM records", async () => {
    if ((await hasRecords(tss)) || (await wasUsed(tss, store.content))) return;
    if (((await readPermanent(tss)) & PERMANENT.ownerAuthSet) !== 0) return;
    await provisionEpoch(tss, anchors.releaseRoot, release.delegation);
    await provisionRecords(tss);
  });
}

type Records = Pick<TpmState, "epoch" | "login" | "hasAnchor" | "freeze">;

async function hasRecords(tss: LaunchEnvironment["tss"]): Promise<boolean> {
  return areProvisioned({
    epoch: await readEpoch(tss),
    login: await readLogin(tss, STATE_CREDENTIAL),
    hasAnchor: (await readAnchor(tss)).kind !== "missing",
    freeze: await readFreeze(tss),
  });
}

/** All of them: a power cut may have come between any two. */
function areProvisioned({ epoch, login, hasAnchor, freeze }: Records): boolean {
  if (epoch.kind === "missing" || login.kind === "missing" || !hasAnchor) return false;
  return freeze.kind === "bits" || freeze.kind === "foreign";
}

/** Whether there is nothing for `prepareTpm` to do. */
export function isProvisioned(states: TpmStates | null): boolean {
  const [state] = states?.values() ?? [];
  return state !== undefined && areProvisioned(state);
}

async function wasUsed(tss: LaunchEnvironment["tss"], { ekName }: StoreContent): Promise<boolean> {
  if (ekName === null) return false;
  const known = fromHex(ekName);
  await using ek = await openEndorsementKey(tss, ekKindOfName(known), known);
  return equalBytes(ek.name, known);
}

/** A credential that a launch needs, and what it is used as: a PIN must not end up in a file, nor a file be tried as a PIN. */
export interface CredentialUse {
  readonly name: string;
  readonly kind: CredentialKind;
}

export function neededCredentials(
  environment: Pick<LaunchEnvironment, "stateVolume">,
  { policy }: Pick<LaunchInputs, "policy">,
): readonly CredentialUse[] {
  return credentialsOf(policy, environment.stateVolume !== null);
}

/** What a policy's launch unseals, on a machine with a state volume or without one. */
export function credentialsOf(policy: Policy, stateVolume: boolean): readonly CredentialUse[] {
  const files = sortedModules(policy).flatMap((module) => Object.values(module.files));
  return [
    ...(stateVolume ? [{ name: STATE_CREDENTIAL, kind: "volume-key" as const }] : []),
    ...[...new Set(files)].map((name) => ({ name, kind: "file" as const })),
    ...sortedTokens(policy).map(({ pin }) => ({ name: pin, kind: "pin" as const })),
  ];
}

/** Findings that the launch itself explains better: it knows the events behind the PCRs. */
const EXPLAINED_BY_EVENTS: ReadonlySet<string> = new Set([
  "measurement-changed",
  "agent-not-launched",
  "agent-pcr-capped",
]);

/** The TPM's state for each needed credential that there is, read once. */
export type TpmStates = ReadonlyMap<string, TpmState>;

export function readStates(environment: LaunchEnvironment, inputs: LaunchInputs): Promise<TpmStates> {
  const needed = neededCredentials(environment, inputs).flatMap(({ name }) => inputs.credentials.get(name) ?? []);
  const wanted = needed.map(({ sealed }) => sealed);
  return tpmStep("TPM state", () => readTpmStates(environment.tss, wanted));
}

/** Everything but the PCRs that keeps a needed credential sealed under this release; the TPM has not been asked yet. */
export function credentialReasons(
  environment: LaunchEnvironment,
  inputs: LaunchInputs,
  states: TpmStates,
  release: Release,
): readonly Reason[] {
  const { store } = environment;
  const now = new Date(environment.now());
  const common = {
    rootKeyPem: inputs.anchors.releaseRoot,
    releases: [release],
    knownEkName: store.content.ekName,
    now,
  };
  const found = neededCredentials(environment, inputs).flatMap(
    ({ name, kind }): readonly (Reason | UnsealFinding)[] => {
      const [sealed, state] = [inputs.credentials.get(name)?.sealed, states.get(name)];
      if (sealed === undefined || state === undefined)
        return [reason("credential-missing", name, "a sealed package in the cabinet", "none")];
      const findings = diagnoseUnseal({ ...common, state, sealed }).filter(
        (finding) => blocks(finding) && !EXPLAINED_BY_EVENTS.has(finding.code),
      );
      return sealed.kind === kind ? findings : [...findings, reason("credential-kind", name, kind, sealed.kind)];
    },
  );
  // What is wrong with the TPM or the release is the same for every credential.
  const distinct = new Map(found.map((entry) => [JSON.stringify(entry), entry]));
  return [...distinct.values()];
}
