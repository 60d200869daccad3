import {
  ByteWriter,
  concatBytes,
  encodeVerificationKey,
  IronclawError,
  joinBytes,
  parseVerificationKey,
  toBase64,
  toHex,
  utf8,
} from "../policy/index.ts";
import { attestationKeyReasons } from "./attestation-key.ts";
import { parseCel, renderCelJsonLines } from "./cel.ts";
import type { Claims } from "./claims.ts";
import { parseClaims } from "./claims-codec.ts";
import { AttestError } from "./errors.ts";
import { type Evidence, measureExtraData, type PcrSection, parseEkCertificates, parsePcrs } from "./evidence.ts";
import { serializePcrs } from "./export-pcrs.ts";
import { describeExport } from "./export-readme.ts";
import { type Reason, reasonFrom } from "./reason.ts";
import { parseTpmPublic } from "./tpm-structures.ts";

/** A report as the files that other tools take. Nothing in it was verified. */
export interface ExportedEvidence {
  /** Content by path, as EVIDENCE.md annex A lists them. */
  readonly files: ReadonlyMap<string, Uint8Array>;
  /** The sections of which only the bytes are there, because they are malformed. */
  readonly malformed: readonly Reason[];
}

/**
 * Takes a report apart for other tools (EVIDENCE.md, annex A): every section as its bytes, and beside them what can be made of it.
 * A section that cannot be read is there as its bytes alone. Verifies nothing: `extra-data.hex` is what the quote *should* carry.
 * @param nonce what the verifier asked with; null takes the report's own word for it, which says nothing about freshness
 */
export function exportEvidence(evidence: Evidence, nonce: Uint8Array | null): ExportedEvidence {
  const malformed: Reason[] = [];
  const attempt = <T>(item: string, parse: () => T): T | null => {
    try {
      return parse();
    } catch (error) {
      if (!(error instanceof IronclawError)) throw error;
      malformed.push(reasonFrom(error, `${item}: ${error.message}`));
      return null;
    }
  };
  const claims = attempt("claims", () => parseClaims(evidence.claims));
  const pcrs = attempt("pcrs", () => parsePcrs(evidence.pcrs));
  const pem = attempt("ak", () => publicKeyPem(evidence.ak));
  const log = attempt("agent-log", () => parseCel(evidence.agentLog));
  const certificates = attempt("ek-certificates", () => parseEkCertificates(evidence.ekCertificates));
  const asked = nonce ?? claims?.nonce ?? null;
  const files = new Map([
    ...sectionFiles(evidence),
    ...(pem === null ? [] : [text("ak.pem", pem)]),
    ...(pcrs === null ? [] : pcrFiles(pcrs)),
    ...(log === null ? [] : [text("agent-log.jsonl", asciiJson(renderCelJsonLines(log)))]),
    ...(claims === null ? [] : [text("claims.json", asciiJson(renderClaims(claims)))]),
    ...(certificates === null ? [] : certificateFiles(certificates)),
    ...(asked === null ? [] : nonceFiles(asked, evidence)),
  ]);
  const quoted = pcrs !== null && pem !== null && asked !== null ? pcrs : null;
  files.set("README.txt", utf8(describeExport([...files.keys()], quoted, malformed)));
  return { files, malformed };
}

type File = readonly [path: string, content: Uint8Array];

const text = (path: string, content: string): File => [path, utf8(content)];

/** What is hashed and signed, byte for byte. The TPM2B is the public area with its size in front, as tpm2-tools keep it. */
function sectionFiles(evidence: Evidence): readonly File[] {
  return [
    ["quote.bin", evidence.quote],
    ["signature.bin", evidence.signature],
    ["ak.tpmt", evidence.ak],
    ["ak.tpm2b", new ByteWriter().sized16(evidence.ak).finish()],
    ["pcrs.cbor", evidence.pcrs],
    ["firmware-log.bin", evidence.firmwareLog],
    ["agent-log.cbor", evidence.agentLog],
    ["ek-certificates.cbor", evidence.ekCertificates],
    ["claims.cbor", evidence.claims],
  ];
}

/** Not every TPMT_PUBLIC is one of these two keys; for others there is the TPM2B. */
function publicKeyPem(ak: Uint8Array): string {
  const key = parseTpmPublic(ak);
  const [unfit] = attestationKeyReasons(key);
  if (unfit !== undefined)
    throw new AttestError("ERR_TPM_STRUCTURE", unfit.item, { expected: unfit.expected, got: unfit.got });
  const pem = encodeVerificationKey(
    key.kind === "ecc" ? { kind: "p256", x: key.x, y: key.y } : { kind: "rsa2048", modulus: key.modulus },
  );
  parseVerificationKey(pem); // refuses a modulus of fewer bits
  return pem;
}

function pcrFiles(pcrs: PcrSection): readonly File[] {
  const values = Object.fromEntries([...pcrs.values].map(([pcr, value]) => [pcr, toHex(value)]));
  return [
    ["pcrs.bin", concatBytes(...pcrs.values.values())],
    ["pcrs.serialized", serializePcrs(pcrs)],
    text("pcrs.json", `${JSON.stringify({ bank: pcrs.bank, values }, null, 2)}\n`),
  ];
}

function certificateFiles(certificates: readonly Uint8Array[]): readonly File[] {
  const chain = certificates.map((der) => utf8(certificatePem(der)));
  return [
    ...certificates.map((der, index): File => [`ek-certificates/${index}.der`, der]),
    ["ek-chain.pem", joinBytes(chain)],
  ];
}

function certificatePem(der: Uint8Array): string {
  const lines = toBase64(der).match(/.{1,64}/g) ?? [];
  return `-----BEGIN CERTIFICATE-----\n${lines.join("\n")}\n-----END CERTIFICATE-----\n`;
}

function nonceFiles(nonce: Uint8Array, evidence: Evidence): readonly File[] {
  return [
    text("nonce.hex", `${toHex(nonce)}\n`),
    text("extra-data.hex", `${toHex(measureExtraData(nonce, evidence))}\n`),
  ];
}

/** The claims under their names in the code; bytes in hexadecimal, numbers of 64 bits as decimal text. */
function renderClaims(claims: Claims): string {
  const plain = (_key: string, value: unknown): unknown => {
    if (value instanceof Uint8Array) return toHex(value);
    if (value instanceof Map) return Object.fromEntries(value);
    return typeof value === "bigint" ? `${value}` : value;
  };
  return `${JSON.stringify(claims, plain, 2)}\n`;
}

/** Names in it come from the machine: what a terminal could act upon is written as an escape, which reads the same. */
function asciiJson(json: string): string {
  return json.replaceAll(/[^\n -~]/g, (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`);
}
