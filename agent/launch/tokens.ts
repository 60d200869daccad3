import { type Reason, reason } from "../../attest/index.ts";
import type { LoadedLibrary, ShimSlot } from "../shim-replies.ts";
import { TOKEN_FLAG } from "../shim-replies.ts";
import { Refusal } from "./environment.ts";
import type { LaunchInputs } from "./inputs.ts";
import type { TokenKeys } from "./keys.ts";
import type { NamedToken } from "./shim-plan.ts";
import type { StartedShim } from "./start-shims.ts";

/** A shim that sees its token. */
export interface TokenShim extends StartedShim {
  readonly slot: ShimSlot;
}

/** What this shim sees of its token's keys. */
export async function keysOf({ shim, slot: { slotId } }: TokenShim): Promise<TokenKeys> {
  return { slotId, keys: await shim.keys(slotId) };
}

export function neededCredential({ credentials }: LaunchInputs, name: string) {
  const credential = credentials.get(name);
  if (credential !== undefined) return credential;
  throw new Refusal([reason("credential-missing", name, "a sealed package in the cabinet", "none")]);
}

/**
 * Each shim's own token among the slots of its library: a PIN is never tried on another one, nor on one that would lock.
 * @throws Refusal with every reason; no PIN was unsealed yet
 */
export function findTokens(
  inputs: LaunchInputs,
  loaded: readonly (readonly [StartedShim, LoadedLibrary])[],
): readonly TokenShim[] {
  const reasons = new Map<string, Reason>();
  const found = loaded.flatMap(([shim, { slots }]): readonly TokenShim[] => {
    const { token } = shim;
    const slot = slots.find(({ label, serial }) => label === token.label && serial === token.serial);
    const { tokenSerial } = neededCredential(inputs, token.pin).sealed;
    const wrong =
      slot === undefined || tokenSerial !== token.serial
        ? [absent(token, slots, tokenSerial)]
        : slotReasons(token.name, slot);
    // All of a token see the same; a reason is worth telling once.
    for (const found of wrong) reasons.set(JSON.stringify(found), found);
    return slot === undefined || wrong.length > 0 ? [] : [{ ...shim, slot }];
  });
  if (reasons.size > 0) throw new Refusal([...reasons.values()]);
  return found;
}

function absent({ name, label, serial }: NamedToken, slots: readonly ShimSlot[], tokenSerial: string | null): Reason {
  const seen = slots.map((slot) => `${slot.label}/${slot.serial}`).join(", ") || "no token";
  return reason("hsm-absent", name, `${label}/${serial}`, `${seen}; PIN sealed for ${tokenSerial ?? "no token"}`);
}

function slotReasons(token: string, { flags }: ShimSlot): readonly Reason[] {
  if ((flags & TOKEN_FLAG.protectedPath) !== 0)
    return [
      reason("token-pin-pad", token, "a token that takes its PIN from the agent", "CKF_PROTECTED_AUTHENTICATION_PATH"),
    ];
  if ((flags & TOKEN_FLAG.userPinLocked) !== 0)
    return [reason("hsm-locked", token, "a token that takes a PIN", "CKF_USER_PIN_LOCKED")];
  if ((flags & TOKEN_FLAG.userPinFinalTry) !== 0)
    return [reason("hsm-final-try", token, "more than one try before it locks", "CKF_USER_PIN_FINAL_TRY")];
  return [];
}
