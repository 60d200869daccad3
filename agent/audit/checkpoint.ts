import {
  certifiedKeyReasons,
  objectAttribute,
  parseTpmPublic,
  parseTpmSignature,
  type TpmPublic,
  tpmAlg,
  tpmName,
  verifyAttestationSignature,
} from "../../attest/index.ts";
import { fromBase64, IronclawError, sha256, toBase64, toHex, utf8 } from "../../policy/index.ts";
import type { CertifiedKey } from "../../seal/index.ts";
import { AgentError } from "../errors.ts";
import { logEntry } from "./log.ts";
import type { AuditEntry, AuditHead, AuditRecord } from "./record.ts";
import type { StatementOf } from "./statement.ts";

/** What a checkpoint key's certificate is made for: extraData of TPM2_Certify. */
export const CHECKPOINT_PURPOSE = sha256(utf8("ironclaw-checkpoint-key-1\n"));

/** The bytes that a checkpoint's signature is over. */
export function checkpointMessage({ seq, hash }: AuditHead): Uint8Array {
  return utf8(`ironclaw-checkpoint-1\n${JSON.stringify({ seq, hash })}`);
}

/** The record with which a segment's checkpoints can be verified: nothing of it is in another segment. */
export function certificateEntry({ certificate, name }: CertifiedKey): AuditEntry {
  const { publicArea, attest, signature } = certificate;
  return {
    ...logEntry("certificate", `checkpoint key ${toHex(name)}`),
    statement: {
      ...{ kind: "certificate", public: toBase64(publicArea) },
      ...{ attest: toBase64(attest), signature: toBase64(signature) },
    },
  };
}

/** @param head a record that is on the disk */
export async function checkpointEntry({ name, sign }: CertifiedKey, head: AuditHead): Promise<AuditEntry> {
  const signature = toBase64(await sign(checkpointMessage(head)));
  const { seq, hash } = head;
  return {
    ...logEntry("checkpoint", `record ${seq} is signed`),
    statement: { kind: "checkpoint", seq, hash, key: toHex(name), signature },
  };
}

/** How far a log's checkpoints prove what they say. */
export interface CheckpointFindings {
  readonly count: number;
  /** The last record that a checkpoint covers; 0 for none. */
  readonly covers: number;
  /** Whether every key was certified by the attestation key that was given; null when none was given. */
  readonly certified: boolean | null;
}

/**
 * Verifies certificates and checkpoints of a log, in the order of its records, beside its chain.
 * Establishes that this TPM's attestation key stands behind the records up to `covers`, as far as `akPublic` is known to be its key: an
 * enrolment says that. Without one, only that checkpoints and certificates agree with each other. What root in the guest may sign: AUDIT.md.
 */
export class CheckpointTrust {
  readonly #akPublic: Uint8Array | null;
  readonly #keys = new Map<string, TpmPublic>();
  /** Of the records behind the last checkpoint. */
  readonly #hashes = new Map<number, string>();
  #first = 0;
  #count = 0;
  #covers = 0;

  /** @param akPublic TPMT_PUBLIC of an enrolled attestation key */
  constructor(akPublic: Uint8Array | null) {
    this.#akPublic = akPublic;
  }

  /** The next record of the chain. @throws AgentError ERR_AUDIT_MALFORMED */
  async add({ seq, hash, statement }: AuditRecord, where: string): Promise<void> {
    const what = `audit record ${seq}${where}`;
    if (this.#first === 0) this.#first = seq;
    if (statement?.kind === "certificate") await this.#addKey(statement, what);
    if (statement?.kind === "checkpoint") await this.#addCheckpoint(statement, what);
    this.#hashes.set(seq, hash);
  }

  get findings(): CheckpointFindings {
    return { count: this.#count, covers: this.#covers, certified: this.#akPublic === null ? null : true };
  }

  async #addKey(statement: StatementOf<"certificate">, what: string): Promise<void> {
    try {
      const publicArea = fromBase64(statement.public, "public");
      const key = parseTpmPublic(publicArea);
      requireSigning(key);
      if (this.#akPublic !== null) {
        const attest = fromBase64(statement.attest, "attest");
        const signature = fromBase64(statement.signature, "signature");
        const [first] = await certifiedKeyReasons(
          { publicArea, attest, signature },
          this.#akPublic,
          CHECKPOINT_PURPOSE,
        );
        if (first !== undefined) throw wrong(first.item, first.expected, first.got);
      }
      this.#keys.set(toHex(tpmName(publicArea)), key);
    } catch (cause) {
      throw located(cause, what);
    }
  }

  async #addCheckpoint({ seq, hash, key, signature }: StatementOf<"checkpoint">, what: string): Promise<void> {
    try {
      const signer = this.#keys.get(key);
      if (signer === undefined) throw wrong("checkpoint key", "one with a certificate before it", key);
      const parsed = parseTpmSignature(fromBase64(signature, "signature"));
      if (!(await verifyAttestationSignature(signer, parsed, checkpointMessage({ seq, hash }))))
        throw wrong("checkpoint signature", "one of its key", "one that does not verify");
      this.#count += 1;
      // One of a record that was deleted with its segment says nothing of those that are kept: the later ones do.
      if (seq >= this.#first) this.#cover({ seq, hash });
    } catch (cause) {
      throw located(cause, what);
    }
  }

  #cover({ seq, hash }: AuditHead): void {
    const present = this.#hashes.get(seq);
    if (present === undefined) throw wrong("checkpoint seq", `a record after ${this.#covers}`, `${seq}`);
    if (present !== hash) throw wrong("checkpoint hash", present, hash);
    this.#covers = seq;
    for (const covered of this.#hashes.keys()) {
      if (covered > seq) break;
      this.#hashes.delete(covered);
    }
  }
}

const { fixedTpm, fixedParent, sensitiveDataOrigin, sign, decrypt, restricted } = objectAttribute;
const NEEDED = fixedTpm | fixedParent | sensitiveDataOrigin | sign;

/** A key that was never outside a TPM and signs what it is given: not the attestation key itself, whose signatures mean something else. */
function requireSigning(key: TpmPublic): void {
  const { attributes, scheme, kind } = key;
  if ((attributes & NEEDED) !== NEEDED || (attributes & (decrypt | restricted)) !== 0)
    throw wrong("certificate objectAttributes", "a signing key of the TPM's own", `0x${attributes.toString(16)}`);
  if (kind !== "ecc" || scheme?.scheme !== tpmAlg.ecdsa || scheme.hash !== tpmAlg.sha256)
    throw wrong("certificate scheme", "ECDSA P-256 with SHA-256", "another");
}

function wrong(item: string, expected: string, got: string): AgentError {
  return new AgentError("ERR_AUDIT_MALFORMED", item, { expected, got });
}

function located(cause: unknown, what: string): unknown {
  if (!(cause instanceof IronclawError)) return cause;
  const fields = cause.expected === undefined ? {} : { expected: cause.expected, got: cause.got ?? "another" };
  const item = cause instanceof AgentError ? cause.message.split(":")[0] : cause.message;
  return new AgentError("ERR_AUDIT_MALFORMED", `${what} ${item}`, { ...fields, cause });
}
