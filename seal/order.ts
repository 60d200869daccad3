import * as z from "zod";
import {
  CREDENTIAL_NAME,
  encodeCanonicalJson,
  parseCanonicalJson,
  parseEnvelope,
  type SigningKey,
  signEnvelope,
  verifyEnvelope,
} from "../policy/index.ts";
import { SealError } from "./errors.ts";

/** DSSE payload type of an operator's order. */
export const ORDER_TYPE = "application/vnd.ironclaw.order+json";

const ekName = z.string().regex(/^(?:[0-9a-f]{68}|[0-9a-f]{100})$/, "expected the Name of an endorsement key");
const record = z.string().regex(/^[0-9a-f]{128}$/, "expected 64 bytes in hexadecimal");
const orderId = z.string().regex(/^[0-9a-f]{32}$/, "expected 16 bytes in hexadecimal");
const freezeBits = z.string().regex(/^[0-9a-f]{16}$/, "expected 64 bits in hexadecimal");
const bootNonce = z.string().regex(/^[0-9a-f]{64}$/, "expected 32 bytes in hexadecimal");

const orderSchema = z.discriminatedUnion("order", [
  z.strictObject({
    version: z.literal(1),
    order: z.literal("retry-login"),
    ekName,
    name: z.string().regex(CREDENTIAL_NAME),
    record,
  }),
  z.strictObject({ version: z.literal(1), order: z.literal("new-volume"), ekName, anchor: record }),
  z.strictObject({ version: z.literal(1), order: z.literal("provision"), ekName, boot: bootNonce }),
  z
    .strictObject({
      ...{ version: z.literal(1), order: z.literal("unfreeze"), ekName, boot: bootNonce },
      id: orderId,
      bits: freezeBits.nullable(),
      keep: freezeBits,
    })
    .refine(({ bits, keep }) => isSubset(keep, bits ?? NOTHING_SET), {
      path: ["keep"],
      message: "expected bits that are set now",
    }),
]);

const NOTHING_SET = "0".repeat(16);

/** Digit by digit: it is asked also about what was found to be no number. */
function isSubset(some: string, all: string): boolean {
  const digit = (text: string, at: number) => Number.parseInt(text[at] ?? "0", 16);
  return [...some].every((_, at) => (digit(some, at) & ~digit(all, at)) === 0);
}

/**
 * An act of the operator that a machine cannot take by itself. Bound to the TPM and to the record as it is now, so that it is good
 * once: what it allows changes the record. FORMATS.md, section 7.
 */
export type Order = z.infer<typeof orderSchema>;

/** @throws PolicyError ERR_ENVELOPE_MALFORMED for an order that no machine would take */
export async function signOrder(order: Order, operator: SigningKey): Promise<Uint8Array> {
  return signEnvelope(ORDER_TYPE, encodeOrder(order), operator);
}

export function encodeOrder(order: Order): Uint8Array {
  return encodeCanonicalJson(order, orderSchema, "ERR_ENVELOPE_MALFORMED", "order");
}

/** Says nothing about who wrote it: `verifyOrder` does. */
export function parseOrder(bytes: Uint8Array): Order {
  return parseCanonicalJson(bytes, orderSchema, "ERR_ENVELOPE_MALFORMED", "order");
}

/**
 * Proves that the operator signed it. Does not establish that it is for this machine or its present state.
 * @throws PolicyError ERR_ENVELOPE_MALFORMED, ERR_ENVELOPE_SIGNATURE
 */
export async function verifyOrder(bytes: Uint8Array, operatorPem: string): Promise<Order> {
  return parseOrder(await verifyEnvelope(parseEnvelope(bytes), ORDER_TYPE, operatorPem));
}

/** @throws SealError ERR_ORDER unless `got` is `expected` */
export function requireOrdered(what: string, expected: string, got: string): void {
  if (expected === got) return;
  throw new SealError("ERR_ORDER", `order ${what}`, {
    expected,
    got,
    hint: "an order is for one machine and one state of it: make a new one from what the machine says now",
  });
}
