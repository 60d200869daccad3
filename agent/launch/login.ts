import { reason } from "../../attest/index.ts";
import {
  type LoginOutcome,
  type LoginRecord,
  packageDigest,
  readLogin,
  type SealedPackage,
  writeLogin,
} from "../../seal/index.ts";
import { AgentError } from "../errors.ts";
import { SHIM_RV } from "../shim-replies.ts";
import { byToken } from "./deliver.ts";
import { enter, type LaunchEnvironment, type LaunchRecord, Refusal } from "./environment.ts";
import type { LaunchInputs } from "./inputs.ts";
import { type TokenIdentity, tokenEvent } from "./keys.ts";
import { neededCredential, type TokenShim } from "./tokens.ts";
import { tpmStep } from "./unseal.ts";

/** CKR_PIN_INCORRECT, CKR_PIN_INVALID, CKR_PIN_LEN_RANGE, CKR_PIN_EXPIRED, CKR_PIN_LOCKED. */
const PIN_REFUSED: ReadonlySet<bigint> = new Set([0xa0n, 0xa1n, 0xa2n, 0xa3n, 0xa4n]);

/**
 * Log in to each token, once, by its first shim; its others follow when it was accepted. A token that refuses ends the launch; those after
 * it are not tried.
 */
export async function logIn(
  environment: LaunchEnvironment,
  inputs: LaunchInputs,
  shims: readonly TokenShim[],
  record: LaunchRecord,
): Promise<void> {
  enter(record, { kind: "logging-in" });
  for (const [first, ...others] of byToken(shims)) {
    const { sealed } = neededCredential(inputs, first.token.pin);
    const trial = await beginLogin(environment, sealed);
    await logInBy(first, trial);
    await trial.note("accepted");
    // The token has just taken this PIN. One that now refuses it to another shim has been changed meanwhile: that is written down, and the
    // rest are not tried.
    for (const other of others) await logInBy(other, trial);
    const { name } = first.token;
    const { label, serial, model, manufacturer, firmware } = first.slot;
    const token: TokenIdentity = { name, label, serial, model, manufacturer, firmware };
    await environment.log.measure(tokenEvent(token), () => {
      record.tokens = [...record.tokens, token];
    });
  }
}

async function logInBy({ id, token, shim, slot, place }: TokenShim, trial: Trial): Promise<void> {
  try {
    await shim.login(slot.slotId);
  } catch (error) {
    // Only the token's own word counts as its answer; anything else leaves the try as one whose end is not known.
    if (!(error instanceof AgentError) || error.rv === undefined) throw error;
    const rv = `0x${error.rv.toString(16)}`;
    if (error.rv === SHIM_RV.notTried) {
      if (place === 0) await trial.withdraw();
      throw new Refusal([reason("pin-not-tried", `${token.name}/${id}`, "a log-in", error.got ?? rv)]);
    }
    if (!PIN_REFUSED.has(error.rv)) throw error;
    await trial.note("refused");
    throw new Refusal([reason("pin-refused", place === 0 ? token.name : `${token.name}/${id}`, "0x0", rv)]);
  }
}

/** A try that is written down in the TPM before it is made: one whose end is not known is not repeated (I11). */
interface Trial {
  note(outcome: LoginOutcome): Promise<void>;
  /** Writes down that it was not made: the next boot may try. */
  withdraw(): Promise<void>;
}

async function beginLogin({ tss }: LaunchEnvironment, sealed: SealedPackage): Promise<Trial> {
  const { name, generation } = sealed;
  const known = await tpmStep("login record", () => readLogin(tss, name));
  const before = known.kind === "record" ? known.record : null;
  const tried = { name, generation, package: packageDigest(sealed) };
  const write = (record: LoginRecord) => tpmStep("login record", () => writeLogin(tss, record));
  const tries = before?.tries ?? 0n;
  const note = (outcome: LoginOutcome) => write({ ...tried, tries: tries + 1n, outcome });
  await note("trying");
  // Without an earlier record there is none to go back to: the same as what an operator's order leaves, and no try was counted.
  return { note, withdraw: () => write(before ?? { ...tried, tries, outcome: "retry-allowed" }) };
}
