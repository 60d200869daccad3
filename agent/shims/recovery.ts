import { type Reason, reason } from "../../attest/index.ts";
import type { Store } from "../../seal/index.ts";
import { journal } from "../journal.ts";

/** Launches after a lost login or a lost agent, one after the other, before the machine waits for an operator. */
export const MAX_RECOVERIES = 5;
/** What the store's field holds. */
const MAX_COUNT = 255;
/** How long a machine serves until an earlier loss counts no more, in milliseconds. */
export const GOOD_AFTER = 300_000;
/** Before the first, second, ... of them: an HSM that is away for a while must not see a log-in every minute. */
const DELAYS = [0, 30_000, 60_000, 120_000, 240_000] as const;

export interface Loss {
  readonly onLoginLost: "reboot" | "stop";
  /** A violation was recorded in this boot. */
  readonly violated: boolean;
  /** Losses so far without a good stretch between; null where nothing is kept from boot to boot. */
  readonly recoveries: number | null;
  readonly lost: "login" | "agent";
}

export type Recovery =
  | { readonly kind: "reboot"; readonly delay: number }
  | { readonly kind: "stop"; readonly reasons: readonly Reason[] };

/**
 * What a lost login leads to. A boot that has seen a violation is not ended by the machine itself: its log is the evidence, and the library
 * that made the attempt could otherwise have it wiped by dropping its login.
 */
export function afterLoss({ onLoginLost, violated, recoveries, lost }: Loss): Recovery {
  const stop = (...reasons: readonly Reason[]): Recovery => ({ kind: "stop", reasons });
  if (onLoginLost === "stop") return stop();
  if (violated) return stop(withheld());
  if (recoveries === null) return stop(noReboot(lost, "recovery-uncounted", "a store that counts the reboots", "none"));
  const delay = DELAYS[recoveries];
  if (recoveries < MAX_RECOVERIES && delay !== undefined) return { kind: "reboot", delay };
  const got = `${recoveries}, and the ${lost} is lost again`;
  return stop(noReboot(lost, "recovery-limit", `at most ${MAX_RECOVERIES} reboots`, got));
}

/** The log of this boot is evidence. */
export function withheld(): Reason {
  return noReboot("login", "recovery-withheld", "a boot without violations", "violations in its log");
}

function noReboot(lost: Loss["lost"], code: string, expected: string, got: string): Reason {
  return reason(code, `reboot after a lost ${lost}`, expected, got);
}

export interface RecoveryOptions extends Omit<Loss, "recoveries" | "lost"> {
  /** Null where nothing is kept from boot to boot. */
  readonly store: Store | null;
  readonly capAndReboot: (reason: string) => Promise<void>;
  /** Printable ASCII, at most 200 characters. */
  readonly why: string;
}

/**
 * Does what follows from a lost login: counts the reboot and has it done later, or does nothing.
 * @returns why there is none, when the policy asks for one
 */
export function recover({ store, capAndReboot, why, ...loss }: RecoveryOptions): readonly Reason[] {
  const recovery = afterLoss({ ...loss, lost: "login", recoveries: store === null ? null : recoveriesOf(store) });
  if (recovery.kind === "stop") return recovery.reasons;
  try {
    if (store !== null) countRecovery(store);
  } catch (error) {
    const got = error instanceof Error ? error.message : "unknown failure";
    return [noReboot("login", "recovery-uncounted", "a store that counts the reboots", got)];
  }
  journal.error(`${why}, reboot in ${recovery.delay / 1000} s`);
  setTimeout(() => void capAndReboot(why), recovery.delay);
  return [];
}

/**
 * Whether a refused launch is the same lost login seen again: this boot is a recovery already, and what it lacks is the HSM alone. No PIN was
 * unsealed for it, so another boot costs no try.
 */
export function isOutageAgain(reasons: readonly Reason[], store: Store): boolean {
  return recoveriesOf(store) > 0 && reasons.length > 0 && reasons.every(isOutage);
}

/** Its token is not there, or its library says that it cannot begin. */
function isOutage({ code, item }: Reason): boolean {
  return code === "hsm-absent" || (code === "ERR_SHIM_REFUSED" && item === "launch (unsealing)");
}

export function recoveriesOf(store: Store): number {
  return store.content.recoveries ?? 0;
}

/** Counted before the reboot is asked for: one that the power cuts short counts as well. */
export function countRecovery(store: Store): void {
  store.write({ ...store.content, recoveries: Math.min(recoveriesOf(store) + 1, MAX_COUNT) });
}

/** A good stretch: the next loss is the first one again. */
export function forgetRecoveries(store: Store): void {
  if (recoveriesOf(store) > 0) store.write({ ...store.content, recoveries: 0 });
}
