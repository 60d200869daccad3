import * as z from "zod";
import { concatBytes, fromBase64, toBase64, utf8 } from "./bytes.ts";
import { encodeCanonicalJson, parseCanonicalJson } from "./canonical-json.ts";
import { PolicyError } from "./errors.ts";
import { keyIdOf, type SigningKey, verifySignature } from "./keys.ts";

/** A DSSE envelope as read: nothing in it is trusted until `verifyEnvelope` has returned its payload. */
export interface Envelope {
  readonly payloadType: string;
  readonly payload: Uint8Array;
  readonly signature: { readonly keyid: string; readonly sig: Uint8Array };
}

const envelopeSchema = z.strictObject({
  payloadType: z.string().regex(/^[a-z0-9.+/-]{1,128}$/),
  payload: z.string(),
  signatures: z.tuple([
    z.strictObject({
      keyid: z.string().regex(/^[0-9a-f]{64}$/),
      sig: z.string().max(512),
    }),
  ]),
});

/** The signed bytes: DSSE pre-authentication encoding, version 1. */
export function encodePreAuthentication(payloadType: string, payload: Uint8Array): Uint8Array {
  const type = utf8(payloadType);
  return concatBytes(utf8(`DSSEv1 ${type.length} `), type, utf8(` ${payload.length} `), payload);
}

/** Signs `payload` and returns the envelope's JSON bytes. */
export async function signEnvelope(payloadType: string, payload: Uint8Array, key: SigningKey): Promise<Uint8Array> {
  const sig = await key.sign(encodePreAuthentication(payloadType, payload));
  return encodeEnvelope({
    payloadType,
    payload,
    signature: { keyid: keyIdOf(key.spkiPem), sig },
  });
}

export function encodeEnvelope(envelope: Envelope): Uint8Array {
  const { keyid, sig } = envelope.signature;
  const document = {
    payloadType: envelope.payloadType,
    payload: toBase64(envelope.payload),
    signatures: [{ keyid, sig: toBase64(sig) }],
  };
  return encodeCanonicalJson(document, envelopeSchema, "ERR_ENVELOPE_MALFORMED", "envelope");
}

/**
 * Reads an envelope of at most 1 MiB. Verifies nothing.
 * @throws PolicyError ERR_ENVELOPE_MALFORMED
 */
export function parseEnvelope(bytes: Uint8Array): Envelope {
  const document = parseCanonicalJson(bytes, envelopeSchema, "ERR_ENVELOPE_MALFORMED", "envelope");
  const [{ keyid, sig }] = document.signatures;
  return {
    payloadType: document.payloadType,
    payload: decodeField(document.payload, "payload"),
    signature: { keyid, sig: decodeField(sig, "sig") },
  };
}

function decodeField(text: string, field: string): Uint8Array {
  try {
    return fromBase64(text, field);
  } catch (cause) {
    throw new PolicyError("ERR_ENVELOPE_MALFORMED", `envelope ${field}`, {
      expected: "canonical base64",
      got: "something else",
      cause,
    });
  }
}

/**
 * Returns the payload once type, key id and signature are right under `spkiPem`.
 * Does not establish that the key is one to trust, nor that the payload is well-formed or current.
 *
 * @throws PolicyError ERR_ENVELOPE_SIGNATURE
 */
export async function verifyEnvelope(envelope: Envelope, payloadType: string, spkiPem: string): Promise<Uint8Array> {
  const { payload, signature } = envelope;
  const refuse = (what: string, expected: string, got: string) =>
    new PolicyError("ERR_ENVELOPE_SIGNATURE", `envelope ${what}`, {
      expected,
      got,
    });
  if (envelope.payloadType !== payloadType) throw refuse("payloadType", payloadType, envelope.payloadType);
  const keyid = keyIdOf(spkiPem);
  if (signature.keyid !== keyid) throw refuse("keyid", keyid, signature.keyid);
  if (!(await verifySignature(spkiPem, encodePreAuthentication(payloadType, payload), signature.sig))) {
    throw refuse("signature", `one that verifies under key ${keyid}`, "one that does not");
  }
  return payload;
}
