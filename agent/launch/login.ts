import { reason } from "../../attest/index.ts";
import {
  type LoginOutcome,
  type LoginRecord,
  type OpenLogin,
  openLogin,
  packageDigest,
  type SealedPackage,
} from "../../seal/index.ts";
import { AgentError } from "../errors.ts";
import { SHIM_RV } from "../shim-replies.ts";
import { byToken } from "./deliver.ts";
import { enter, type LaunchEnvironment, type LaunchRecord, Refusal } from "./environment.ts";
import type { LaunchInputs } from "./inputs.ts";
import { type TokenIdentity, type TokenKeys, tokenEvent } from "./keys.ts";
import { together } from "./together.ts";
import { keysOf, neededCredential, type TokenShim } from "./tokens.ts";
import { tpmStep } from "./unseal.ts";

/** CKR_PIN_INCORRECT, CKR_PIN_INVALID, CKR_PIN_LEN_RANGE, CKR_PIN_EXPIRED, CKR_PIN_LOCKED. */
const PIN_REFUSED: ReadonlySet<bigint> = new Set([0xa0n, 0xa1n, 0xa2n, 0xa3n, 0xa4n]);

/**
 * Log in to each token, once, by its first shim; its others follow when it was accepted. A token that refuses ends the launch; those after
 * it are not tried.
 * @returns what the first shim of each token sees of its keys
 */
export async function logIn(
  environment: LaunchEnvironment,
  inputs: LaunchInputs,
  shims: readonly TokenShim[],
  record: LaunchRecord,
): Promise<ReadonlyMap<string, TokenKeys>> {
  enter(record, { kind: "logging-in" });
  const held = new Map<string, TokenKeys>();
  for (const [first, ...others] of byToken(shims)) {
    const { sealed } = neededCredential(inputs, first.token.pin);
    // Not before the token before it has its own record: two new ones would be given the same place.
    await using login = await tpmStep("login record", () => openLogin(environment.tss, sealed.name));
    const trial = await beginTrial(login, sealed);
    await logInBy(first, trial);
    // The token tells its keys while it is written down that it took the PIN.
    const [keys] = await together(keysOf(first), accept(environment, record, trial, [first, ...others]));
    held.set(first.token.name, keys);
  }
  return held;
}

async function accept(
  { log }: LaunchEnvironment,
  record: LaunchRecord,
  trial: Trial,
  [{ token, slot }, ...others]: readonly [TokenShim, ...TokenShim[]],
): Promise<void> {
  await trial.note("accepted");
  // The token has just taken this PIN. One that now refuses it to another shim has been changed meanwhile: that is written down, and the
  // rest are not tried.
  for (const other of others) await logInBy(other, trial);
  const { label, serial, model, manufacturer, firmware } = slot;
  const identity: TokenIdentity = { name: token.name, label, serial, model, manufacturer, firmware };
  await log.measure(tokenEvent(identity), () => {
    record.tokens = [...record.tokens, identity];
  });
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

async function beginTrial(login: OpenLogin, sealed: SealedPackage): Promise<Trial> {
  const { before } = login;
  const tried = { generation: sealed.generation, package: packageDigest(sealed) };
  const write = (record: Omit<LoginRecord, "name">) => tpmStep("login record", () => login.write(record));
  const tries = before?.tries ?? 0n;
  const note = (outcome: LoginOutcome) => write({ ...tried, tries: tries + 1n, outcome });
  await note("trying");
  // Without an earlier record there is none to go back to: the same as what an operator's order leaves, and no try was counted.
  return { note, withdraw: () => write(before ?? { ...tried, tries, outcome: "retry-allowed" }) };
}
