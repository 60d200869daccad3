import type { Tpm as Tss } from "node-tpm2-tss";
import { toHex } from "../policy/index.ts";
import { SealError } from "./errors.ts";
import { freezeHex, type OwnerAuth, readFreeze, replaceFreeze } from "./freeze-bits.ts";
import { type Order, requireOrdered } from "./order.ts";
import { PERMANENT, readPermanent } from "./ownership.ts";
import { encodeAnchor, encodeLoginRecord, readAnchor, readLogin, writeAnchor, writeLogin } from "./tpm-records.ts";

/** Where an order is carried out. */
export interface OrderPlace {
  /** Name of this TPM's endorsement key. */
  readonly ekName: Uint8Array;
  /** Names this boot, 32 bytes: what was ordered in another boot is not good in this one. */
  readonly boot: Uint8Array;
  /** Defines the counter and the records anew. */
  provision(): Promise<void>;
  /** The TPM owner's authorisation, where one came with the order. */
  readonly owner: OwnerAuth | null;
}

/**
 * Carries out an order whose signature was verified, if it is for this TPM and for its state as it is now. It is used up by that: the
 * record is another one afterwards. `provision` and `unfreeze` are good until the boot ends; that the same `unfreeze` is not carried out
 * again, when the same bits were set again, is the caller's to see to.
 *
 * @throws SealError ERR_ORDER for another machine or another state, ERR_SEAL_RECORD, ERR_SEAL_OWNED; TpmError
 */
export async function carryOutOrder(tss: Tss, order: Order, place: OrderPlace): Promise<void> {
  requireOrdered("ekName", toHex(place.ekName), order.ekName);
  switch (order.order) {
    case "retry-login": {
      const login = await readLogin(tss, order.name);
      const present = login.kind === "record" ? toHex(encodeLoginRecord(login.record)) : "no record";
      requireOrdered("record", present, order.record);
      if (login.kind === "record") await writeLogin(tss, { ...login.record, outcome: "retry-allowed" });
      return;
    }
    case "new-volume": {
      const state = await readAnchor(tss);
      requireOrdered("anchor", state.kind === "anchor" ? toHex(encodeAnchor(state.anchor)) : "no anchor", order.anchor);
      return writeAnchor(tss, null);
    }
    case "provision":
      requireOrdered("boot", toHex(place.boot), order.boot);
      return place.provision();
    case "unfreeze": {
      requireOrdered("boot", toHex(place.boot), order.boot);
      const state = await readFreeze(tss);
      requireOrdered("bits", state.kind === "bits" ? freezeHex(state.bits) : "none", order.bits ?? "none");
      await requireOwner(tss, place.owner);
      return replaceFreeze(tss, BigInt(`0x${order.keep}`), place.owner);
    }
    default:
      return order satisfies never;
  }
}

/** Before the bits are taken away: without the owner they could not be made again. */
async function requireOwner(tss: Tss, owner: OwnerAuth | null): Promise<void> {
  const owned = ((await readPermanent(tss)) & PERMANENT.ownerAuthSet) !== 0;
  if (!owned || owner !== null) return;
  throw new SealError("ERR_SEAL_OWNED", "owner authorisation", {
    expected: "that of this TPM's owner",
    got: "none",
    hint: "give the order with the machine's escrow file (`--escrow`)",
  });
}
