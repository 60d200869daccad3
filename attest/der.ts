import { AttestError } from "./errors.ts";

export interface DerElement {
  /** Identifier octet, e.g. 0x30 SEQUENCE. */
  readonly tag: number;
  readonly content: Uint8Array;
}

/** No certificate comes near; an element costs far more memory than its two octets. */
const maxDer = 1 << 16;

/**
 * Reads the elements that stand one after another in `bytes`, at most 64 KiB: single-octet tags, definite lengths in their
 * shortest form.
 * @throws AttestError `ERR_ENDORSEMENT_MALFORMED`
 */
export function parseDer(bytes: Uint8Array): readonly DerElement[] {
  if (bytes.length > maxDer) throw malformed("size", `at most ${maxDer} bytes`, `${bytes.length}`);
  const elements: DerElement[] = [];
  let offset = 0;
  while (offset < bytes.length) {
    const tag = bytes[offset] ?? 0;
    if ((tag & 0x1f) === 0x1f) throw malformed("tag", "one octet");
    const { length, size } = parseLength(bytes.subarray(offset + 1, offset + 5));
    const start = offset + 1 + size;
    if (length > bytes.length - start) throw malformed("length", `at most ${bytes.length - start}`, `${length}`);
    elements.push({ tag, content: bytes.subarray(start, start + length) });
    offset = start + length;
  }
  return elements;
}

function parseLength(head: Uint8Array): { length: number; size: number } {
  const [first, ...rest] = head;
  if (first === undefined) throw malformed("length", "an octet", "nothing");
  if (first < 0x80) return { length: first, size: 1 };
  const count = first & 0x7f;
  if (count === 0 || count > 3 || count > rest.length) throw malformed("length", "1 to 3 octets", `${count}`);
  const length = rest.slice(0, count).reduce((sum, octet) => sum * 256 + octet, 0);
  if (rest[0] === 0 || length < 0x80) throw malformed("length", "the shortest form");
  return { length, size: 1 + count };
}

/** The elements inside one element of the given tag. */
export function derChildren(element: DerElement | undefined, tag: number, what: string): readonly DerElement[] {
  return parseDer(derContent(element, tag, what));
}

export function derContent(element: DerElement | undefined, tag: number, what: string): Uint8Array {
  if (element?.tag === tag) return element.content;
  throw malformed(
    what,
    `tag 0x${tag.toString(16)}`,
    element === undefined ? "nothing" : `tag 0x${element.tag.toString(16)}`,
  );
}

/** The single element that `bytes` consist of, with nothing behind it. */
export function derSingle(bytes: Uint8Array, what: string): DerElement {
  const [element, ...others] = parseDer(bytes);
  if (element !== undefined && others.length === 0) return element;
  throw malformed(what, "one element", element === undefined ? "none" : `${1 + others.length}`);
}

/** BOOLEAN: DER has one encoding of true. */
export function derBoolean(element: DerElement | undefined, what: string): boolean {
  const content = derContent(element, 0x01, what);
  const [value] = content;
  if (content.length === 1 && (value === 0x00 || value === 0xff)) return value === 0xff;
  throw malformed(
    what,
    "00 or ff",
    Array.from(content.slice(0, 4), (octet) => octet.toString(16)).join(" ") || "nothing",
  );
}

/** INTEGER that is not negative and at most 2^31 - 1. */
export function derNumber(element: DerElement | undefined, what: string): number {
  const content = derContent(element, 0x02, what);
  if (content.length === 0 || content.length > 4 || (content[0] ?? 0) >= 0x80)
    throw malformed(what, "a number below 2^31", `${content.length} octets`);
  return content.reduce((sum, octet) => sum * 256 + octet, 0);
}

const textTags: ReadonlySet<number> = new Set([0x0c, 0x13, 0x16]);

/** UTF8String, PrintableString or IA5String. The other string types of ASN.1 have no single meaning in practice. */
export function derText(element: DerElement | undefined, what: string): string {
  if (element === undefined || !textTags.has(element.tag))
    throw malformed(
      what,
      "UTF8String, PrintableString or IA5String",
      element === undefined ? "nothing" : `tag 0x${element.tag.toString(16)}`,
    );
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(element.content);
  } catch {
    throw malformed(what, "UTF-8", "other bytes");
  }
}

/** Octets of an object identifier. A UUID as an arc (ITU-T X.667) has 19. */
const maxOid = 128;

/** Dotted form of the content of an OBJECT IDENTIFIER. Arcs have any size: those of UUIDs have 128 bits. */
export function derOid(content: Uint8Array): string {
  if (content.length > maxOid) throw malformed("object identifier", `at most ${maxOid} octets`, `${content.length}`);
  const arcs: bigint[] = [];
  let arc = 0n;
  for (const octet of content) {
    if (arc === 0n && octet === 0x80) throw malformed("object identifier", "arcs in their shortest form");
    arc = (arc << 7n) | BigInt(octet & 0x7f);
    if (octet >= 0x80) continue;
    arcs.push(arc);
    arc = 0n;
  }
  const [first, ...rest] = arcs;
  if (first === undefined || (content.at(-1) ?? 0x80) >= 0x80) throw malformed("object identifier", "whole arcs");
  const root = first < 80n ? first / 40n : 2n;
  return [root, first - 40n * root, ...rest].join(".");
}

function malformed(what: string, expected: string, got?: string): AttestError {
  return new AttestError("ERR_ENDORSEMENT_MALFORMED", `der ${what}`, {
    expected,
    ...(got === undefined ? {} : { got }),
  });
}
