import type { Tpm as Tss } from "node-tpm2-tss";
import { toHex } from "../policy/index.ts";
import { type Order, requireOrdered } from "./order.ts";
import { encodeAnchor, encodeLoginRecord, readAnchor, readLogin, writeAnchor, writeLogin } from "./tpm-records.ts";

/** Where an order is carried out. */
export interface OrderPlace {
  /** Name of this TPM's endorsement key. */
  readonly ekName: Uint8Array;
  /** Names this boot, 32 bytes: what was ordered in another boot is not good in this one. */
  readonly boot: Uint8Array;
  /** Defines the counter and the records anew. */
  provision(): Promise<void>;
}

/**
 * Carries out an order whose signature was verified, if it is for this TPM and for its state as it is now. It is used up by that: the
 * record is another one afterwards; `provision` is good until the boot ends.
 *
 * @throws SealError ERR_ORDER for another machine or another state, ERR_SEAL_RECORD; TpmError
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
    default:
      return order satisfies never;
  }
}
