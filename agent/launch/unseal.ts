import { TpmError } from "node-tpm2-tss";
import { reason } from "../../attest/index.ts";
import type { Anchors, Release } from "../../policy/index.ts";
import {
  type Credential,
  importSealed,
  isStaleImport,
  keepImported,
  runUnsealer,
  SealError,
  type SealedPackage,
  type StandbyUnsealer,
  type UnsealAnswer,
  type Unsealer,
  unsealRequest,
} from "../../seal/index.ts";
import { failureOf, journal } from "../journal.ts";
import { answersOf, type LaunchEnvironment, type LaunchRecord, Refusal } from "./environment.ts";

export interface UnsealOrder {
  readonly credential: Credential;
  readonly release: Release;
  readonly anchors: Anchors;
}

/**
 * Has the TPM send one credential into every sink, or refuses with the TPM's own words.
 * @param sinks write ends of pipes or sockets, 1 to 16; stay the caller's
 * @param ahead what `prepareAhead` gave the same order
 * @throws Refusal; SealError when the attempt did not get as far as an answer
 */
export async function unsealCredential(
  environment: LaunchEnvironment,
  record: LaunchRecord,
  order: UnsealOrder,
  sinks: readonly number[],
  ahead: StandbyUnsealer | null = null,
): Promise<void> {
  const answer = await askTpm(environment, order, sinks, ahead);
  record.answers = [...record.answers, ...answersOf(answer)];
  if (answer.kind === "released") {
    record.unsealed = [...record.unsealed, order.credential];
    return;
  }
  const { name } = order.credential.sealed;
  if (answer.kind === "failed" && answer.command === "decrypt")
    throw damaged(name, "a ciphertext of another key or label");
  const got = answersOf(answer)
    .map((entry) => `${entry.command} ${entry.rc}`)
    .join(", ");
  throw new Refusal([reason("tpm-refused", `TPM2_Unseal of ${name}`, "the sealed credential", got || answer.kind)]);
}

/** The operator signed it, and yet it does not open. No other generation is tried: that PIN may have been changed since. */
function damaged(name: string, got: string): Refusal {
  return new Refusal([reason("blob-damaged", name, "a package that this TPM can open", got)]);
}

/**
 * Has the unsealer that stands by come as far as it can while other things are done, where it waits to be told to ask. False for a credential
 * that has to be imported first.
 */
export function prepareAhead(
  { unsealer }: Pick<LaunchEnvironment, "unsealer">,
  { credential: { sealed, imported }, release, anchors }: UnsealOrder,
  sinks: number,
): boolean {
  if (imported === null) return false;
  unsealer.prepare(unsealRequest({ sealed, imported, release, anchors, sinks }));
  return true;
}

function unsealerOf(
  { config }: LaunchEnvironment,
  { credential: { sealed }, release, anchors }: UnsealOrder,
  imported: Uint8Array,
  sinks: readonly number[],
): Unsealer {
  const request = unsealRequest({ sealed, imported, release, anchors, sinks: Math.max(1, sinks.length) });
  return { path: `${config.programs}/unsealer`, tcti: config.tcti, request, sinks, discard: sinks.length === 0 };
}

/**
 * One answer of the TPM for one credential. A kept private area that does not load any more (TPM2_Clear, a damaged store) is
 * imported again from the blob of the same package: never from another generation.
 *
 * @param sinks empty: the TPM is asked, and whatever it would release is discarded
 */
export async function askTpm(
  environment: LaunchEnvironment,
  order: UnsealOrder,
  sinks: readonly number[],
  ahead: StandbyUnsealer | null = null,
): Promise<UnsealAnswer> {
  const { credential } = order;
  const ask = (imported: Uint8Array) => runUnsealer(unsealerOf(environment, order, imported, sinks));
  if (credential.imported === null) return ask(await importAndKeep(environment, credential));
  const answer = await (ahead?.ask(sinks) ?? ask(credential.imported));
  return isStaleImport(answer) ? ask(await importAndKeep(environment, credential)) : answer;
}

/** The private area of a credential on this TPM, kept for the next boot. @throws Refusal for a package that does not open */
export async function importAndKeep(environment: LaunchEnvironment, credential: Credential): Promise<Uint8Array> {
  const { sealed, envelope } = credential;
  const imported = await tpmStep(`sealed ${sealed.name}`, () => importWhole(environment, sealed));
  try {
    keepImported(environment.store, { name: sealed.name, generation: sealed.generation, package: envelope, imported });
  } catch (error) {
    // It costs an import at the next boot, nothing else.
    journal.warning(`${failureOf(error)}, the import is not kept`);
  }
  return imported;
}

/** Response codes of format one that are about a parameter: of TPM2_Import, parts of the blob. */
const PARAMETER_ERROR = 0xc0;

async function importWhole({ tss }: LaunchEnvironment, sealed: SealedPackage): Promise<Uint8Array> {
  try {
    return await importSealed(tss, sealed);
  } catch (error) {
    if (error instanceof TpmError && error.layer === "tpm" && (error.rc & PARAMETER_ERROR) === PARAMETER_ERROR)
      throw damaged(sealed.name, `TPM2_Import 0x${error.rc.toString(16).padStart(8, "0")}`);
    throw error;
  }
}

/** Gives the TPM's refusal of a command a type of this project. */
export async function tpmStep<T>(item: string, act: () => Promise<T>): Promise<T> {
  try {
    return await act();
  } catch (cause) {
    if (!(cause instanceof TpmError)) throw cause;
    throw new SealError("ERR_SEAL_TPM", item, { expected: "the TPM's consent", got: cause.message, cause });
  }
}
