import { spawn } from "node:child_process";
import {
  type Anchors,
  ByteWriter,
  encodeTpmtSignature,
  encodeVerificationKeyPublic,
  fromBase64,
  fromHex,
  measurePcrDigest,
  type PolicyApproval,
  type Release,
  SEAL_PCRS,
  sealPcrValues,
  utf8,
} from "../policy/index.ts";
import { ekProfileOfName } from "./ek-public.ts";
import { SealError } from "./errors.ts";
import type { SealedPackage } from "./package.ts";
import { parseUnsealAnswer, type UnsealAnswer } from "./unseal-answer.ts";

/** Longest line that is read from the unsealer, in bytes. */
const MAX_ANSWER_BYTES = 8192;
const REQUEST_VERSION = 1;

/**
 * The unsealer's request (FORMATS.md, section 7). Holds no secret.
 * All three inputs must have been verified before: `verifySealedPackage`, `verifyRelease`, measured anchors.
 *
 * @param sinks how many file descriptors receive the PIN, 1 to 16
 */
export function unsealRequest(sealed: SealedPackage, release: Release, anchors: Anchors, sinks = 1): Uint8Array {
  const profile = ekProfileOfName(sealed.ekName);
  if (profile === null)
    throw new SealError("ERR_SEALED_MALFORMED", "ekName", {
      expected: "34 or 50 bytes",
      got: `${sealed.ekName.length}`,
    });
  const writer = new ByteWriter()
    .bytes(utf8("ICUS"))
    .u32(REQUEST_VERSION)
    .sized16(sealed.ekName)
    .u32(profile.persistentHandle);
  writer.sized16(sealed.objectPublic).sized16(sealed.duplicate).sized16(sealed.encryptedSeed);
  writer
    .sized16(measurePcrDigest(sealPcrValues(release)))
    .u8(SEAL_PCRS.length)
    .bytes(Uint8Array.from(SEAL_PCRS));
  writeApproval(writer, release.releaseKey, release.tpmPolicy);
  writeApproval(writer, anchors.releaseRoot, release.delegation);
  return writer.u8(sinks).finish();
}

function writeApproval(writer: ByteWriter, keyPem: string, approval: PolicyApproval): void {
  const signature = encodeTpmtSignature(keyPem, fromBase64(approval.signature, "signature"));
  writer.sized16(encodeVerificationKeyPublic(keyPem)).sized16(fromHex(approval.policyRef, "policyRef"));
  writer.sized16(fromHex(approval.approved, "approved")).sized16(signature);
}

export interface Unsealer {
  /** The unsealer's executable. */
  readonly path: string;
  /** TCTI of libtss2, e.g. `device:/dev/tpmrm0`. */
  readonly tcti: string;
  readonly request: Uint8Array;
  /** Write ends that receive `u8 length | PIN`; as many as the request says, none with `discard`. They stay open here: the caller closes them. */
  readonly sinks: readonly number[];
  /** Asks the TPM, but writes nothing to the sinks even if it would release: for a launch that has already been refused. */
  readonly discard?: boolean;
  /** Milliseconds until the unsealer is killed. */
  readonly timeout?: number;
}

/**
 * Runs the one-shot unsealer. The PIN goes from its process into the sinks and never through this one.
 * A refusal by the TPM is a value; no attempt at all is an error.
 *
 * @throws SealError ERR_UNSEALER when it cannot be started, runs out of time, or answers what it must not
 */
export async function runUnsealer(unsealer: Unsealer): Promise<UnsealAnswer> {
  const { stdout, exitCode } = await execute(unsealer);
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

async function execute(unsealer: Unsealer): Promise<{ stdout: Uint8Array; exitCode: number | null }> {
  const { path, tcti, request, sinks, discard = false, timeout = 60_000 } = unsealer;
  const child = spawn(path, discard ? [tcti, "--discard"] : [tcti], {
    stdio: ["pipe", "pipe", "ignore", ...sinks],
    env: {},
    timeout,
    killSignal: "SIGKILL",
  });
  const { stdin, stdout } = child;
  if (stdin === null || stdout === null)
    throw new SealError("ERR_UNSEALER", "unsealer", {
      expected: "pipes",
      got: "none",
    });
  return new Promise((resolve, reject) => {
    const chunks: Uint8Array[] = [];
    let size = 0;
    stdout.on("data", (chunk: Uint8Array) => {
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
    // It may refuse its arguments before it reads: the answer tells, not the broken pipe.
    stdin.on("error", () => undefined);
    stdin.end(request);
  });
}
