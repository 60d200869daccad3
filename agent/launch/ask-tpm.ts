import { type Reason, reasonFrom } from "../../attest/index.ts";
import type { Credential } from "../../seal/index.ts";
import { type LaunchEnvironment, Refusal } from "./environment.ts";
import type { LaunchInputs } from "./inputs.ts";
import {
  credentialReasons,
  isProvisioned,
  neededCredentials,
  prepareTpm,
  readStates,
  type TpmStates,
} from "./tpm-check.ts";
import { importAndKeep } from "./unseal.ts";

/** What the TPM was asked while the shims' files were copied. */
export interface AskedTpm {
  /** Null when there is nothing to ask for, or the TPM does not tell. */
  readonly states: TpmStates | null;
  /** The credentials, with each one imported that can be. */
  readonly imported: Partial<Pick<LaunchInputs, "credentials">>;
  readonly reasons: readonly Reason[];
}

/**
 * Sets up what the machine needs of a new TPM, has its state told, and whatever is needed imported.
 * @param inputs null when not all of them could be read
 */
export async function askTpmState(environment: LaunchEnvironment, inputs: LaunchInputs | null): Promise<AskedTpm> {
  const reasons: Reason[] = [];
  const attempt = async <T>(item: string, act: () => Promise<T>): Promise<T | null> => {
    try {
      return await act();
    } catch (error) {
      reasons.push(...(error instanceof Refusal ? error.reasons : [reasonFrom(error, item)]));
      return null;
    }
  };
  const tell = () =>
    inputs === null ? Promise.resolve(null) : attempt("TPM state", () => readStates(environment, inputs));
  let states = await tell();
  if (reasons.length === 0 && !isProvisioned(states)) {
    await attempt("TPM records", () => prepareTpm(environment, environment.inputs.partial));
    states = await tell();
  }
  if (inputs === null || states === null) return { states: null, imported: {}, reasons };
  const credentials = await attempt("sealed credentials", () => importCredentials(environment, inputs, states));
  return { states, imported: credentials === null ? {} : { credentials }, reasons };
}

/** Nothing of an import is secret. A TPM that would unseal under none of the releases, such as another machine's, has nothing to import. */
async function importCredentials(
  environment: LaunchEnvironment,
  inputs: LaunchInputs,
  states: TpmStates,
): Promise<ReadonlyMap<string, Credential>> {
  const credentials = new Map(inputs.credentials);
  const usable = inputs.releases.some(
    (release) => credentialReasons(environment, inputs, states, release).length === 0,
  );
  for (const { name } of usable ? neededCredentials(environment, inputs) : []) {
    const credential = credentials.get(name);
    if (credential === undefined || credential.imported !== null) continue;
    credentials.set(name, { ...credential, imported: await importAndKeep(environment, credential) });
  }
  return credentials;
}
