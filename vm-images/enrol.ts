import {
  beginEnrolment,
  type EkProfileName,
  type Endorsement,
  type Enrolment,
  finishEnrolment,
  makeCredential,
  readEkProfileName,
  withEkProfile,
} from "../attest/index.ts";
import { fromBase64, fromHex, toBase64 } from "../policy/index.ts";
import type { ControlAnswer, ControlClient } from "./control-client.ts";
import { ImageError } from "./errors.ts";

/**
 * Enrol a machine whose EK certificate chains to a pinned CA: a credential made for that EK and the machine's AK comes
 * back opened, so both keys are in one TPM. What comes from the guest is input to these checks and nothing else.
 * @throws ImageError ERR_VM_CONTROL; AttestError ERR_ENDORSEMENT_REFUSED for a certificate of another EK than the machine uses,
 * ERR_ENROLMENT_MALFORMED, ERR_CREDENTIAL when another secret comes back
 */
export async function enrol(
  name: string,
  endorsement: Endorsement,
  control: Pick<ControlClient, "endorsement" | "activate">,
): Promise<Enrolment> {
  const answer = await control.endorsement();
  const { akPublic } = answer;
  if (typeof akPublic !== "string")
    throw new ImageError("ERR_VM_CONTROL", "endorsement: akPublic", { expected: "base64", got: typeof akPublic });
  const claimed = withEkProfile(endorsement, ekProfileOf(answer));
  const pending = await beginEnrolment(name, claimed, fromBase64(akPublic, "akPublic"));
  const { credentialBlob, encryptedSecret } = pending.credential;
  return finishEnrolment(pending, await control.activate(credentialBlob, encryptedSecret));
}

/**
 * The endorsement for the EK template that the machine states: its certificate does not say it. Nothing is proved by the statement, and
 * nothing gained by a wrong one (`withEkProfile`).
 * @throws ImageError ERR_VM_CONTROL; AttestError ERR_ENDORSEMENT_REFUSED for a certificate of another EK than the machine uses
 */
export async function claimedEndorsement(
  endorsement: Endorsement,
  control: Pick<ControlClient, "endorsement">,
): Promise<Endorsement> {
  return withEkProfile(endorsement, ekProfileOf(await control.endorsement()));
}

function ekProfileOf({ ekProfile }: ControlAnswer): EkProfileName {
  const name = readEkProfileName(ekProfile);
  if (name !== null) return name;
  throw new ImageError("ERR_VM_CONTROL", "endorsement: ekProfile", {
    expected: "the name of a known template",
    got: typeof ekProfile === "string" ? ekProfile : typeof ekProfile,
  });
}

/**
 * Gives the machine's TPM an owner: a secret made for its EK and AK travels as a credential, and owner and lockout authorisation follow
 * from it on both sides. Keep `ownership` before calling: whoever loses it cannot delete the counter or clear the TPM any more.
 * @throws ImageError ERR_VM_CONTROL when the machine refuses, e.g. because its TPM has an owner
 */
export async function giveOwner(
  secret: Uint8Array,
  endorsement: Endorsement,
  enrolment: Enrolment,
  control: Pick<ControlClient, "sealing">,
): Promise<void> {
  const credential = await makeCredential(endorsement.ekPublic, fromHex(enrolment.akName), secret);
  await control.sealing("own", {
    credentialBlob: toBase64(credential.credentialBlob),
    encryptedSecret: toBase64(credential.encryptedSecret),
  });
}
