import { equalBytes, fromBase64 } from "./bytes.ts";
import { PolicyError } from "./errors.ts";
import { sha256Hex } from "./hash.ts";

/** Bytes of a certificate's DER. */
export const MAX_CERTIFICATE = 16_384;
/** Far beyond any certificate's nesting. */
const MAX_DEPTH = 16;
/** RFC 5280, 4.1.2.2: at most 20 octets, and one in front that keeps it positive. */
const MAX_SERIAL = 21;

const TAG = { integer: 0x02, bitString: 0x03, utcTime: 0x17, generalizedTime: 0x18, sequence: 0x30, version: 0xa0 };
const CONSTRUCTED = 0x20;
/** issuerUniqueID, subjectUniqueID and extensions: each at most once, in this order. */
const TAIL: readonly number[] = [0x81, 0x82, 0xa3];

/** The parts of an X.509 certificate that PKCS #11 shows, each in DER with its own tag and length. */
export interface CertificateParts {
  readonly der: Uint8Array;
  readonly serial: Uint8Array;
  readonly issuer: Uint8Array;
  readonly subject: Uint8Array;
  /** SubjectPublicKeyInfo. */
  readonly spki: Uint8Array;
}

interface Element {
  readonly tag: number;
  /** With tag and length. */
  readonly whole: Uint8Array;
  readonly content: Uint8Array;
}

/**
 * Finds the parts of one certificate (RFC 5280, 4.1) in DER: lengths in their shortest form, every field where it belongs, nothing behind it.
 *
 * Establishes nothing about who issued it, when it is valid, what it is for, or what its names and extensions hold.
 * @throws PolicyError `ERR_POLICY_INVALID`
 */
export function parseCertificate(der: Uint8Array): CertificateParts {
  if (der.length > MAX_CERTIFICATE) throw refused("size", `at most ${MAX_CERTIFICATE} bytes`, `${der.length}`);
  const [certificate, ...behind] = elementsOf(der, 0);
  if (behind.length > 0) throw refused("end", "nothing behind it", "other bytes");
  const [tbs, algorithm, signature, ...others] = children(certificate, "certificate");
  children(algorithm, "signatureAlgorithm");
  expectTag(signature, TAG.bitString, "signature");
  if (others.length > 0) throw refused("parts", "3", `${3 + others.length}`);
  const fields = children(tbs, "tbsCertificate");
  const [serial, signedBy, issuer, validity, subject, spki, ...tail] = fields.slice(
    fields[0]?.tag === TAG.version ? 1 : 0,
  );
  checkSerial(expectTag(serial, TAG.integer, "serialNumber"));
  if (!equalBytes(expectTag(signedBy, TAG.sequence, "signature").whole, expectTag(algorithm, TAG.sequence, "").whole)) {
    throw refused("signature", "the signatureAlgorithm", "another algorithm");
  }
  checkValidity(children(validity, "validity"));
  for (const field of [issuer, subject, spki]) children(field, "name or key");
  checkTail(tail);
  return {
    der,
    serial: expectTag(serial, TAG.integer, "serialNumber").whole,
    issuer: expectTag(issuer, TAG.sequence, "issuer").whole,
    subject: expectTag(subject, TAG.sequence, "subject").whole,
    spki: expectTag(spki, TAG.sequence, "subjectPublicKeyInfo").whole,
  };
}

/** What is wrong with a policy's certificate of this key; null when it is one, and of this key. */
export function certificateFault(base64: string, spki: string): string | null {
  try {
    const got = `sha256:${sha256Hex(parseCertificate(fromBase64(base64)).spki)}`;
    return got === spki ? null : `its public key is ${got}, expected ${spki}`;
  } catch (error) {
    if (error instanceof PolicyError) return error.message;
    throw error;
  }
}

/** The elements that stand one after another; what is constructed has to hold elements again, all the way down. */
function elementsOf(bytes: Uint8Array, depth: number): readonly Element[] {
  if (depth > MAX_DEPTH) throw refused("nesting", `at most ${MAX_DEPTH} levels`, "more");
  const elements: Element[] = [];
  for (let offset = 0; offset < bytes.length; ) {
    const tag = bytes[offset] ?? 0;
    if ((tag & 0x1f) === 0x1f) throw refused("tag", "one octet", "a longer one");
    const { length, size } = lengthAt(bytes.subarray(offset + 1, offset + 4));
    const [start, end] = [offset + 1 + size, offset + 1 + size + length];
    if (end > bytes.length) throw refused("length", `at most ${bytes.length - start}`, `${length}`);
    const element = { tag, whole: bytes.subarray(offset, end), content: bytes.subarray(start, end) };
    if ((tag & CONSTRUCTED) !== 0) elementsOf(element.content, depth + 1);
    elements.push(element);
    offset = end;
  }
  return elements;
}

/** No certificate here is longer than two octets of length can say. */
function lengthAt([first, second, third]: Uint8Array): { readonly length: number; readonly size: number } {
  if (first === undefined) throw refused("length", "an octet", "nothing");
  if (first < 0x80) return { length: first, size: 1 };
  if (first === 0x81 && second !== undefined && second >= 0x80) return { length: second, size: 2 };
  if (first === 0x82 && second !== undefined && third !== undefined && second > 0) {
    return { length: second * 256 + third, size: 3 };
  }
  throw refused("length", "the shortest form, at most 2 octets", "another");
}

/** The depth is held already: whatever is inside was gone through from the outermost element. */
function children(element: Element | undefined, what: string): readonly Element[] {
  return elementsOf(expectTag(element, TAG.sequence, what).content, 1);
}

function expectTag(element: Element | undefined, tag: number, what: string): Element {
  if (element?.tag === tag) return element;
  throw refused(what, `tag ${hex(tag)}`, element === undefined ? "nothing" : `tag ${hex(element.tag)}`);
}

function checkSerial({ content: [first, second], content }: Element): void {
  const padded = first === 0 && second !== undefined && second < 0x80;
  if (first !== undefined && first < 0x80 && !padded && content.length <= MAX_SERIAL) return;
  throw refused("serialNumber", "a number that is not negative, at most 20 octets", `${content.length} octets`);
}

function checkValidity(times: readonly Element[]): void {
  const isTime = ({ tag }: Element) => tag === TAG.utcTime || tag === TAG.generalizedTime;
  if (times.length !== 2 || !times.every(isTime)) throw refused("validity", "two times", `${times.length} elements`);
}

function checkTail(tail: readonly Element[]): void {
  let last = -1;
  for (const { tag } of tail) {
    const index = TAIL.indexOf(tag);
    if (index <= last) throw refused("tbsCertificate end", "unique ids and extensions in order", `tag ${hex(tag)}`);
    last = index;
  }
}

function hex(tag: number): string {
  return `0x${tag.toString(16).padStart(2, "0")}`;
}

function refused(what: string, expected: string, got: string): PolicyError {
  return new PolicyError("ERR_POLICY_INVALID", `certificate ${what}`, { expected, got });
}
