import type { Tpm as Tss } from "node-tpm2-tss";
import { toHex } from "../policy/index.ts";
import { type Order, requireOrdered } from "./order.ts";
import { encodeAnchor, encodeLoginRecord, readAnchor, readLogin, writeAnchor, writeLogin } from "./tpm-records.ts";

/**
 * Carries out an order whose signature was verified, if it is for this TPM and for its record as it is now. It is used up by that: the
 * record differs afterwards.
 *
 * @throws SealError ERR_ORDER for another machine or another state, ERR_SEAL_RECORD; TpmError
 */
export async function carryOutOrder(tss: Tss, order: Order, ekName: Uint8Array): Promise<void> {
  requireOrdered("ekName", toHex(ekName), order.ekName);
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
    default:
      return order satisfies never;
  }
}
