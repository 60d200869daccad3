import { type KeyObject, sign } from "node:crypto";
import type { DerElement } from "../../attest/der.ts";
import { utf8 } from "../../policy/index.ts";
import { encodeDer } from "./der-writer.ts";

/** Certificates field by field, for shapes that openssl does not write. */

export const element = (tag: number, content: Uint8Array): DerElement => ({ tag, content });
export const nest = (tag: number, ...children: readonly DerElement[]): DerElement => element(tag, encodeDer(children));
export const sequence = (...children: readonly DerElement[]): DerElement => nest(0x30, ...children);
export const boolean = (octet: number): DerElement => element(0x01, Uint8Array.of(octet));
export const integer = (...octets: readonly number[]): DerElement => element(0x02, Uint8Array.from(octets));
export const text = (value: string, tag = 0x0c): DerElement => element(tag, utf8(value));

export function oid(dotted: string): DerElement {
  const [first = 0n, second = 0n, ...rest] = dotted.split(".").map(BigInt);
  return element(0x06, Uint8Array.from([40n * first + second, ...rest].flatMap(base128)));
}

function base128(arc: bigint): number[] {
  const octets = [Number(arc % 128n)];
  for (let left = arc / 128n; left > 0n; left /= 128n) octets.unshift(0x80 | Number(left % 128n));
  return octets;
}

/** One attribute and its value. */
export const attribute = (type: string, value: string, tag?: number): DerElement =>
  sequence(oid(type), text(value, tag));
export const rdn = (...attributes: readonly DerElement[]): DerElement => nest(0x31, ...attributes);
export const name = (...rdns: readonly DerElement[]): DerElement => sequence(...rdns);
/** A name of one common name, or of none. */
export const commonName = (value: string): DerElement =>
  value === "" ? name() : name(rdn(attribute("2.5.4.3", value)));

export interface WrittenExtension {
  readonly id: string;
  readonly critical?: boolean | DerElement;
  readonly value: DerElement | Uint8Array;
}

export const extensionIds = {
  keyUsage: "2.5.29.15",
  subjectAltName: "2.5.29.17",
  basicConstraints: "2.5.29.19",
  extendedKeyUsage: "2.5.29.37",
} as const;

const tpm = { manufacturer: "2.23.133.2.1", model: "2.23.133.2.2", version: "2.23.133.2.3" } as const;
export const tpmAttributes = (tag?: number): readonly DerElement[] => [
  attribute(tpm.manufacturer, "id:49465800", tag),
  attribute(tpm.model, "SLB 9672", tag),
  attribute(tpm.version, "id:0010", tag),
];

/** A subject alternative name; each element is a GeneralName. */
export const altName = (...names: readonly DerElement[]): WrittenExtension => ({
  ...{ id: extensionIds.subjectAltName, critical: true },
  value: sequence(...names),
});
export const directoryName = (...rdns: readonly DerElement[]): DerElement => nest(0xa4, name(...rdns));
export const purposes = (...ids: readonly string[]): WrittenExtension => ({
  id: extensionIds.extendedKeyUsage,
  value: sequence(...ids.map(oid)),
});
/** `bits`: first octet, keyCertSign 0x04, keyEncipherment 0x20, keyAgreement 0x08, digitalSignature 0x80. */
export const keyUsage = (bits: number): WrittenExtension => ({
  ...{ id: extensionIds.keyUsage, critical: true },
  value: element(0x03, Uint8Array.of(0, bits)),
});
export const authority = (...pathLength: readonly DerElement[]): WrittenExtension => ({
  ...{ id: extensionIds.basicConstraints, critical: true },
  value: sequence(boolean(0xff), ...pathLength),
});
export const endEntity: WrittenExtension = { id: extensionIds.basicConstraints, critical: true, value: sequence() };

export const ekExtensions: readonly WrittenExtension[] = [
  altName(directoryName(...tpmAttributes().map((one) => rdn(one)))),
  endEntity,
  keyUsage(0x20),
  purposes("2.23.133.8.1"),
];

export interface Signing {
  readonly algorithm: DerElement;
  readonly sign: (tbs: Uint8Array) => Uint8Array;
}

const nullValue = element(0x05, new Uint8Array());
const sha256 = sequence(oid("2.16.840.1.101.3.4.2.1"), nullValue);

/** How a key of that kind signs by default: RSA with PKCS #1 v1.5, SHA-256; ECDSA with SHA-256. */
export function signingWith(key: KeyObject): Signing {
  const algorithm =
    key.asymmetricKeyType === "ec"
      ? sequence(oid("1.2.840.10045.4.3.2"))
      : sequence(oid("1.2.840.113549.1.1.11"), nullValue);
  return { algorithm, sign: (tbs) => new Uint8Array(sign("sha256", tbs, key)) };
}

/** RSASSA-PSS; without `parameters` the hash is the one that the standard means by saying nothing, SHA-1. */
export function pssWith(key: KeyObject, hash: "sha256" | "sha1"): Signing {
  const mask = sequence(oid("1.2.840.113549.1.1.8"), sha256);
  const parameters =
    hash === "sha1" ? sequence() : sequence(nest(0xa0, sha256), nest(0xa1, mask), nest(0xa2, integer(32)));
  const padding = 6; // RSA_PKCS1_PSS_PADDING
  const saltLength = hash === "sha1" ? 20 : 32;
  return {
    algorithm: sequence(oid("1.2.840.113549.1.1.10"), parameters),
    sign: (tbs) => new Uint8Array(sign(hash, tbs, { key, padding, saltLength })),
  };
}

export interface WrittenCertificate {
  readonly subject?: DerElement;
  readonly issuer?: DerElement;
  readonly key: KeyObject;
  readonly serial?: DerElement;
  /** UTCTime (13 characters) or GeneralizedTime (15). */
  readonly notBefore?: string;
  readonly notAfter?: string;
  readonly extensions?: readonly WrittenExtension[];
  readonly signing: Signing;
}

export function writeCertificate(options: WrittenCertificate): Uint8Array {
  const {
    subject = name(),
    issuer = commonName("root"),
    key,
    serial = integer(7),
    extensions = ekExtensions,
    signing,
  } = options;
  const { notBefore = "200101000000Z", notAfter = "20400101000000Z" } = options;
  const spki: DerElement = element(0x30, withoutHead(new Uint8Array(key.export({ type: "spki", format: "der" }))));
  const tbs = sequence(
    nest(0xa0, integer(2)),
    ...[serial, signing.algorithm, issuer, sequence(time(notBefore), time(notAfter)), subject, spki],
    nest(0xa3, sequence(...extensions.map(writeExtension))),
  );
  const signature = signing.sign(encodeDer([tbs]));
  return encodeDer([sequence(tbs, signing.algorithm, element(0x03, Uint8Array.of(0, ...signature)))]);
}

function writeExtension({ id, critical = false, value }: WrittenExtension): DerElement {
  const flag = typeof critical === "boolean" ? (critical ? [boolean(0xff)] : []) : [critical];
  const octets = value instanceof Uint8Array ? value : encodeDer([value]);
  return sequence(oid(id), ...flag, element(0x04, octets));
}

const time = (value: string): DerElement => text(value, value.length === 13 ? 0x17 : 0x18);

/** The content of the only element. */
function withoutHead(der: Uint8Array): Uint8Array {
  const first = der[1] ?? 0;
  return der.slice(first < 0x80 ? 2 : 2 + (first & 0x7f));
}
