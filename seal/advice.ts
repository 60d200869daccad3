/**
 * Everything that can stand between a sealed credential and the pipe it should come out of: one code each, whether it keeps the
 * credential sealed, and one line of advice. The operator guide has a section for each code (agent/docs/operator-guide.md).
 */
export const UNSEAL_FINDINGS = {
  "tpm-replaced": {
    blocks: true,
    advice: "seal the credential again with this TPM's EK certificate, and enrol the machine again",
  },
  "parent-changed": {
    blocks: true,
    advice: "the TPM's endorsement seed was changed: treat it as a new TPM, after finding out who did that",
  },
  "wrong-hierarchy": {
    blocks: true,
    advice: "seal again with the key of the EK certificate: this one lies in the owner hierarchy",
  },
  "hierarchy-disabled": {
    blocks: true,
    advice: "switch the TPM's hierarchies on in the firmware's set-up, then reboot",
  },
  "endorsement-auth-set": {
    blocks: true,
    advice:
      "set the endorsement authorisation back to empty, which unattended unsealing needs; if nobody knows it, clear the TPM",
  },
  "tpm-cleared": {
    blocks: true,
    advice:
      "find out who cleared the TPM, then have it set up again with `ironclaw order provision`: the sealed packages still open",
  },
  "tpm-not-provisioned": {
    blocks: true,
    advice: "set the TPM up with `ironclaw tpm provision` and the owner's escrow file",
  },
  "tpm-locked-out": {
    blocks: false,
    advice: "somebody guesses a password on this TPM: it does not keep our credentials sealed, but find out who",
  },
  "epoch-unwritten": {
    blocks: true,
    advice: "set the TPM up again with `ironclaw tpm provision`: the counter's first increment did not happen",
  },
  "epoch-foreign": {
    blocks: true,
    advice:
      "the counter at our index is somebody else's: `ironclaw tpm provision --replace`, with the owner's escrow if there is one",
  },
  frozen: {
    blocks: true,
    advice:
      "somebody stopped this machine with `ironclaw freeze --all`: the operator ends that with `ironclaw order unfreeze`",
  },
  "freeze-missing": {
    blocks: true,
    advice: "find out who took the freeze bits away, then have them made again with `ironclaw order unfreeze --all`",
  },
  "freeze-foreign": {
    blocks: true,
    advice: "find out who put another index there, then have ours made again with `ironclaw order unfreeze --all`",
  },
  "pcr-bank-inactive": { blocks: true, advice: "activate the bank in the firmware's set-up, then reboot" },
  "pcr-never-extended": { blocks: true, advice: "the firmware does not measure the boot: switch measured boot on" },
  "measurement-changed": {
    blocks: true,
    advice: "sign a release for what is measured now, or bring back what was measured when it was signed",
  },
  "agent-not-launched": { blocks: true, advice: "nothing has been measured into the agent PCR yet: launch the agent" },
  "agent-pcr-capped": { blocks: true, advice: "the launch of this boot has ended: only a reboot can unseal again" },
  "release-missing": { blocks: true, advice: "put a signed release into the cabinet" },
  "release-malformed": {
    blocks: true,
    advice: "put the release that was signed into the cabinet again: this file is damaged",
  },
  "release-not-trusted": { blocks: true, advice: "sign the release with a key that this machine's root has delegated" },
  "release-expired": { blocks: true, advice: "sign the release again with a later end, or correct the clock" },
  "release-not-yet-valid": { blocks: true, advice: "wait, or correct the clock" },
  "release-revoked": {
    blocks: true,
    advice: "install a release of the present epoch: this one's has ended on this TPM",
  },
  "release-key-revoked": {
    blocks: true,
    advice: "install a release under a release key that the root has delegated for the present epoch",
  },
  "credential-not-delegated": {
    blocks: true,
    advice: "have the root delegate this credential to the release key, and sign the release again",
  },
  "credential-missing": { blocks: true, advice: "seal the credential and put it into the cabinet" },
  "credential-expired": { blocks: true, advice: "seal a new generation of the credential" },
  "credential-rolled-back": {
    blocks: true,
    advice: "a newer generation was used on this TPM before: put that one into the cabinet, or seal a newer one",
  },
  "credential-ambiguous": {
    blocks: true,
    advice: "two packages have the same name and generation: remove one, or seal a newer generation",
  },
  "blob-damaged": {
    blocks: true,
    advice: "put the package that was sealed into the cabinet again, or seal a new generation",
  },
  "login-tried": {
    blocks: true,
    advice:
      "this PIN was tried and not accepted: seal the right one as a new generation, or allow one more try with `ironclaw order retry-login`",
  },
} as const satisfies Readonly<Record<string, { readonly blocks: boolean; readonly advice: string }>>;

export type UnsealFindingCode = keyof typeof UNSEAL_FINDINGS;

export function adviceFor(code: string): string | undefined {
  return Object.hasOwn(UNSEAL_FINDINGS, code) ? UNSEAL_FINDINGS[code as UnsealFindingCode].advice : undefined; // just looked up
}
