import { type ChildProcess, spawn } from "node:child_process";
import {
  type Anchors,
  ByteWriter,
  credentialRef,
  delegationSteps,
  EPOCH_INDEX,
  encodeTpmtSignature,
  encodeVerificationKeyPublic,
  epochLimit,
  fromBase64,
  measurePcrDigest,
  measurePolicy,
  type PolicyStep,
  RELEASE_REF,
  type Release,
  releaseSteps,
  SEAL_PCRS,
  sealPcrValues,
  utf8,
} from "../policy/index.ts";
import { ekProfileOfName } from "./ek-public.ts";
import { SealError } from "./errors.ts";
import { encodeCredentialLabel, type SealedPackage } from "./package.ts";
import { parseUnsealAnswer, type UnsealAnswer } from "./unseal-answer.ts";

/** Longest line that is read from the unsealer, in bytes. */
export const MAX_ANSWER_BYTES = 8192;
const REQUEST_VERSION = 2;
/** Milliseconds until an unsealer is killed. */
export const UNSEALER_MS = 60_000;

export interface UnsealRequest {
  readonly sealed: SealedPackage;
  /** Content of the TPM2B_PRIVATE that TPM2_Import made of the package's blob on this TPM. */
  readonly imported: Uint8Array;
  readonly release: Release;
  readonly anchors: Anchors;
  /** How many file descriptors receive the secret, 1 to 16. Default 1. */
  readonly sinks?: number;
}

/**
 * The unsealer's request (FORMATS.md, section 8). Holds no secret.
 * All inputs must have been verified before: `verifySealedPackage`, `verifyRelease`, measured anchors.
 *
 * @throws SealError ERR_RELEASE_REFUSED when the root delegated the release key for other credentials only
 */
export function unsealRequest({ sealed, imported, release, anchors, sinks = 1 }: UnsealRequest): Uint8Array {
  const { releaseRoot } = anchors;
  const { releaseKey, epoch } = release;
  const { lastEpoch } = release.delegation;
  const profile = ekProfileOfName(sealed.ekName);
  if (profile === null)
    throw new SealError("ERR_SEALED_MALFORMED", "ekName", {
      expected: "34 or 50 bytes",
      got: `${sealed.ekName.length}`,
    });
  const writer = new ByteWriter().bytes(utf8("ICUS")).u32(REQUEST_VERSION);
  writer.sized16(sealed.ekName).u32(profile.persistentHandle).sized16(sealed.objectPublic).sized16(imported);
  writer.sized16(sealed.nonce).sized16(encodeCredentialLabel(sealed)).sized16(sealed.ciphertext);
  writer
    .sized16(measurePcrDigest(sealPcrValues(release)))
    .u8(SEAL_PCRS.length)
    .bytes(Uint8Array.from(SEAL_PCRS));
  writer.u32(EPOCH_INDEX).u64(epochLimit(epoch)).u64(epochLimit(lastEpoch));
  writeApproval(writer, {
    keyPem: releaseKey,
    policyRef: RELEASE_REF,
    steps: releaseSteps(releaseRoot, sealPcrValues(release), epoch),
    signature: release.unseal,
  });
  writeApproval(writer, {
    keyPem: releaseRoot,
    policyRef: credentialRef(sealed.name),
    steps: delegationSteps(releaseRoot, releaseKey, lastEpoch),
    signature: delegatedSignature(release, sealed.name),
  });
  return writer.u8(sinks).finish();
}

/** The root's signature for one credential. @throws SealError ERR_RELEASE_REFUSED when there is none */
export function delegatedSignature({ delegation }: Pick<Release, "delegation">, name: string): string {
  const found = delegation.credentials.find((entry) => entry.name === name);
  if (found !== undefined) return found.signature;
  throw new SealError("ERR_RELEASE_REFUSED", `release delegation for ${name}`, {
    expected: "the root's approval of the release key for this credential",
    got: delegation.credentials.map((entry) => entry.name).join(" "),
    hint: "the root has to delegate this credential to the release key, and the release has to be signed again",
  });
}

interface Approval {
  readonly keyPem: string;
  readonly policyRef: Uint8Array;
  readonly steps: readonly PolicyStep[];
  readonly signature: string;
}

function writeApproval(writer: ByteWriter, { keyPem, policyRef, steps, signature }: Approval): void {
  writer.sized16(encodeVerificationKeyPublic(keyPem)).sized16(policyRef).sized16(measurePolicy(steps));
  writer.sized16(encodeTpmtSignature(keyPem, fromBase64(signature, "signature")));
}

export interface Unsealer {
  /** The unsealer's executable. */
  readonly path: string;
  /** TCTI of libtss2, e.g. `device:/dev/tpmrm0`. */
  readonly tcti: string;
  readonly request: Uint8Array;
  /** Write ends that receive `u16 length | secret`; as many as the request says, none with `discard`. They stay open here: the caller closes them. */
  readonly sinks: readonly number[];
  /** Asks the TPM, but writes nothing to the sinks even if it would release: for a launch that has already been refused. */
  readonly discard?: boolean;
  /** Default: a minute. */
  readonly timeout?: number;
}

/**
 * Runs the one-shot unsealer. The secret goes from its process into the sinks and never through this one.
 * A refusal by the TPM is a value; no attempt at all is an error.
 *
 * @throws SealError ERR_UNSEALER when it cannot be started, runs out of time, or answers what it must not
 */
export function runUnsealer(unsealer: Unsealer): Promise<UnsealAnswer> {
  const { path, tcti, request, sinks, discard = false, timeout = UNSEALER_MS } = unsealer;
  const child = spawn(path, [tcti, ...(discard ? ["--discard"] : [])], {
    stdio: ["pipe", "pipe", "ignore", ...sinks],
    env: {},
  });
  const answer = heard(child, path).then(answerOf);
  const timer = setTimeout(() => child.kill("SIGKILL"), timeout);
  answer.catch(() => undefined).finally(() => clearTimeout(timer));
  // It may refuse its arguments before it reads: the answer tells, not the broken pipe.
  child.stdin?.on("error", () => undefined);
  child.stdin?.end(request);
  return answer;
}

interface Heard {
  readonly stdout: Uint8Array;
  readonly exitCode: number | null;
}

function answerOf({ stdout, exitCode }: Heard): UnsealAnswer {
  const answer = parseUnsealAnswer(stdout);
  const expected = {
    released: [0],
    refused: [1],
    discarded: [1],
    failed: [3, 4],
  }[answer.kind];
  if (exitCode !== null && expected.includes(exitCode)) return answer;
  throw new SealError("ERR_UNSEALER", "unsealer exit code", {
    expected: `${expected.join(" or ")} with ${answer.kind}`,
    got: `${exitCode}`,
  });
}

/** All that it says until it ends. */
function heard(child: ChildProcess, path: string): Promise<Heard> {
  return new Promise((resolve, reject) => {
    const chunks: Uint8Array[] = [];
    let size = 0;
    child.stdout?.on("data", (chunk: Uint8Array) => {
      size += chunk.length;
      if (size <= MAX_ANSWER_BYTES) chunks.push(chunk);
      else child.kill("SIGKILL");
    });
    child.once("error", (cause) =>
      reject(
        new SealError("ERR_UNSEALER", `unsealer ${path}`, {
          expected: "a program that starts",
          got: cause.message,
          cause,
        }),
      ),
    );
    child.once("close", (exitCode) => resolve({ stdout: Buffer.concat(chunks), exitCode }));
  });
}
