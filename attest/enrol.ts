import { fromHex, toBase64, toHex } from "../policy/index.ts";
import { type Credential, makeCredential } from "./credential.ts";
import type { Endorsement } from "./endorsement.ts";
import { type Enrolment, encodeEnrolment, parseEnrolment } from "./enrolment.ts";
import { AttestError } from "./errors.ts";
import { tpmName } from "./tpm-structures.ts";

const secretBytes = 32;

/** An enrolment between the credential that went out and the answer to it. Keep it where the machine cannot read it: it holds the secret. */
export interface PendingEnrolment {
  /** Goes to the machine, for TPM2_ActivateCredential. */
  readonly credential: Credential;
  /** What the credential holds, and only the TPM with this EK and AK gives back. `finishEnrolment` wipes it. */
  readonly secret: Uint8Array;
  /** True once `finishEnrolment` has returned it, and not before. */
  readonly enrolment: Enrolment;
}

/** Those that were answered, rightly or not. */
const answered = new WeakSet<PendingEnrolment>();

/**
 * The enrolment document of a machine. Call it only after TPM2_ActivateCredential gave back the secret that
 * `makeCredential` sealed to this EK and the Name of this AK: before that nothing binds the two.
 * @throws AttestError `ERR_ENROLMENT_MALFORMED` for a key that is not an attestation key
 */
export function createEnrolment(name: string, endorsement: Endorsement, akPublicArea: Uint8Array): Enrolment {
  return parseEnrolment(
    encodeEnrolment({
      version: 1,
      name,
      ekName: toHex(endorsement.ekName),
      akPublic: toBase64(akPublicArea),
      akName: toHex(tpmName(akPublicArea)),
      assurance: endorsement.assurance,
      ekCertificateSha256: toHex(endorsement.ekCertificateSha256),
    }),
  );
}

/**
 * First half: checks that the key is fit to attest and makes a fresh challenge for its Name under the endorsed EK. The Name
 * is computed from the public area that will be pinned, never taken from the machine.
 * Does not establish anything about the machine: `finishEnrolment` does.
 * @throws AttestError `ERR_ENROLMENT_MALFORMED`, `ERR_TPM_STRUCTURE`, `ERR_CREDENTIAL`
 */
export async function beginEnrolment(
  name: string,
  endorsement: Endorsement,
  akPublicArea: Uint8Array,
): Promise<PendingEnrolment> {
  const enrolment = createEnrolment(name, endorsement, akPublicArea);
  const secret = crypto.getRandomValues(new Uint8Array(secretBytes));
  const credential = await makeCredential(endorsement.ekPublic, fromHex(enrolment.akName), secret);
  return { credential, secret, enrolment };
}

/**
 * Second half: the secret came back, so the AK is loaded in the TPM that holds the EK. One answer counts, right or wrong:
 * whoever guesses has to begin again. Whether the name is free, and stays with this EK, is the keeper's to see to.
 * Does not establish what software runs there.
 * @throws AttestError `ERR_CREDENTIAL` for another secret or a second answer
 */
export function finishEnrolment(pending: PendingEnrolment, answer: Uint8Array): Enrolment {
  if (answered.has(pending)) throw refused("one answer", "another one");
  answered.add(pending);
  const same = equalInConstantTime(pending.secret, answer);
  pending.secret.fill(0);
  if (!same) throw refused("the credential's secret", "another value");
  return pending.enrolment;
}

/** The time tells the length of the answer and nothing of the secret. */
function equalInConstantTime(secret: Uint8Array, answer: Uint8Array): boolean {
  if (secret.length !== secretBytes || answer.length !== secretBytes) return false;
  return secret.reduce((difference, byte, index) => difference | (byte ^ (answer[index] ?? 0)), 0) === 0;
}

function refused(expected: string, got: string): AttestError {
  return new AttestError("ERR_CREDENTIAL", "answer to the credential", { expected, got });
}
