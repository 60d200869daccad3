import { everyNotProven } from "../../../attest/not-proven.ts";
import type { Meanings } from "./meaning.ts";

/** Findings of an appraisal (attest/APPRAISAL.md, section 4); a report that verifies can have them. */
export const APPRAISAL_CODES = {
  "release-not-accepted": {
    means: "no release was given, the policy accepts none of them, or the machine runs one that it leaves out",
    act: "give `--reference` the release that the machine runs, or find out why it runs that one; the policy's `releases` says which count",
  },
  "release-dates": {
    means: "the release has ended or has not begun",
    act: "sign the release again with other dates, or roll the next one out",
  },
  "image-variant": {
    means: "a variant that the policy leaves out, or another than the release's",
    act: "a `dev` or `demo` machine where none belongs: stop it; or name the variant in the appraisal policy",
  },
  "image-id": { means: "the claimed image is not the release's", act: "find out who built the image that runs" },
  "installed-system": {
    means: "no image of ours, but the package on an ordinary system: nothing of its root file system was measured",
    act: "nothing, where that was meant (agent/docs/install.md says what is weaker); else run an image",
  },
  "debug-status": {
    means: "the claimed debug status is not that of the variant",
    act: "keep the report: claims and variant contradict each other",
  },
  assurance: {
    means: "a lower class than the policy accepts",
    act: "accept the class in the appraisal policy's `minAssurance`, knowing what it means (APPRAISAL.md section 5), or enrol the machine with a TPM of a better one",
  },
  stale: {
    means: "the challenge is older than the policy allows, or from the future",
    act: "ask again with a fresh nonce",
  },
  "pcr-mismatch": {
    means: "a quoted value is not the release's",
    act: "find the event that differs (`ironclaw log show`); meant: sign a release for it. Not meant: find out who changed it",
  },
  "pcr-no-reference": {
    means: "PCR 4, 9, 11 or 12 has no reference value",
    act: "sign the release from a prediction of this image",
  },
  "pcr-not-quoted": {
    means: "a PCR that the release pins was not asked for",
    act: "ask for all the PCRs that the release pins",
  },
  "pcr-unextended": {
    means: "a PCR that every boot extends is all zeros",
    act: "switch measured boot on: nothing was measured into this PCR",
  },
  "firmware-unpinned": {
    means: "a firmware PCR has no reference value; `pinned` refuses for 0, 2 and 7",
    act: "pin them: `ironclaw release predict --firmware-log`; or waive them in the appraisal policy",
  },
  "firmware-separator": {
    means: "one of PCRs 0 to 7 has no separator or several",
    act: "read the firmware log; a firmware update usually cures it",
  },
  "event-missing": {
    means: "an event of the release was not measured",
    act: "another configuration or policy was measured than the release has: find out which",
  },
  "event-order": {
    means: "another event stands in its place, or an event comes after its phase",
    act: "keep the report: an event at the wrong time or place",
  },
  "event-mismatch": {
    means: "the event has another digest",
    act: "meant: pin and release it. Not meant: find out who changed this item",
  },
  "event-unknown": {
    means: "an event that the release does not have",
    act: "keep the report: something was measured that the release does not know",
  },
  cap: {
    means: "not exactly one cap of the launch's end: the PIN could be unsealed again",
    act: "keep the report and take the machine out of service: change the PIN at the HSM",
  },
  "library-not-accepted": {
    means: "library or closure is not in the policy's list",
    act: "name the library in the appraisal policy, or roll back",
  },
  "profile-not-accepted": {
    means: "the sandbox profile is not in the policy's list",
    act: "name the profile in the appraisal policy, or roll back",
  },
  "launch-state": { means: "the machine does not serve", act: "read the `launch-...` findings beside it" },
  "launch-*": {
    means: "a reason that the agent gives for it, with its own code (`[a-z0-9-]`, 1 to 64)",
    act: "the same code without `launch-` stands above: its row says what to do",
  },
  "launch-other": {
    means: "the same with any other code, which is then the beginning of the item",
    act: "the item begins with the agent's own code",
  },
  "launch-tpm-answer": {
    means: "what the TPM answered when it was asked for the PIN",
    act: "the findings beside it say what differed",
  },
  "probe-missing": {
    means: "the escape probe left out an attempt",
    act: "keep the report: the agent that made it is not the released one, or has a fault",
  },
  "probe-succeeded": {
    means: "an attempt to escape succeeded",
    act: "do not serve from this machine; report it as a fault",
  },
  "probe-unwitnessed": {
    means: "the kernel saw nothing of the probe",
    act: "do not serve from this machine; report it as a fault",
  },
  "shim-process": {
    means:
      "a token without an active shim, a running shim of no named token, or one of which there is no view, or that has root, a capability, or not exactly three seccomp filters besides the inherited ones",
    act: "keep the report, and restart the machine",
  },
  token: {
    means: "no token, no key, or a key of a token that is not named",
    act: "connect the HSM, or correct the policy",
  },
  "key-attributes": {
    means:
      "a served key does not report what it must; a warning where its history is unknown or bad (`alwaysSensitive`, `neverExtractable` or `local` not true) and the policy does not say",
    act: "make the key as it should be on the token, or name its history in the policy",
  },
  violations: {
    means:
      "one finding for each device that came after the launch had measured the devices (contraindicated) or went (a warning), one where the agent had no room for another device (contraindicated: it could have come unseen), then one for all denied calls of the libraries: more than the policy tolerates, or some",
    act: "keep the report, ask the library's maker; the policy's `maxViolations` decides",
  },
  "shim-replaced": {
    means: "a shim died, whether a spare took its place or none was left",
    act: "the audit log says why it ended; restart the machine at a quiet moment, before the last spare goes",
  },
  "profile-exception": {
    means:
      "something that the policy lets a library reach beyond its own files, or a sandbox profile other than `local`; these stand before all other findings",
    act: "read what the policy opens (`ironclaw policy explain`), and that it is meant",
  },
  "sandbox-weaker": {
    means: "a feature of the sandbox that the machine's kernel lacks and its policy does without",
    act: "a newer kernel; or the policy's `sandbox.lacks` stays as it was decided",
  },
  rebooted: {
    means: "started again since the last report, as the policy weighs it",
    act: "find out whether the restart was meant; a history with this report ends the finding",
  },
  "clock-unsafe": {
    means: "the TPM's clock may have gone back",
    act: "nothing, when the machine has just had a power cut; else compare the next report",
  },
  "clock-lags": {
    means: "a software TPM's clock is behind the last report's after a boot: it was not saved, or was set",
    act: "nothing, for a software TPM that was killed; else find out who put it back",
  },
  "tpm-firmware": {
    means: "the TPM has another firmware than at the last report",
    act: "find out whether the TPM's firmware was updated on purpose",
  },
} as const satisfies Meanings;

/** Why a report does not verify. Nothing of such a report is believed, and it moves no machine but to `refused`. */
export const VERIFY_CODES = {
  "ak-not-enrolled": {
    means: "the report is signed by another attestation key than the enrolled one",
    act: "compare the enrolment with the machine; a replaced TPM is enrolled again",
  },
  "ak-unsuitable": {
    means: "the key in the report is no restricted signing key of a TPM",
    act: "keep the report: no agent makes such a key",
  },
  signature: {
    means: "the signature is not the attestation key's over this quote",
    act: "the report was changed on its way: take it from the machine again",
  },
  "qualified-signer": {
    means: "the quote names another signer, or another place in the TPM's hierarchies, than the enrolled key's",
    act: "keep the report; enrol the machine again after finding out why",
  },
  "extra-data": {
    means: "nonce, claims or logs are not the ones that were quoted",
    act: "give `--nonce` the nonce that was asked with; else the report was changed",
  },
  "pcr-selection": {
    means: "the quote is over other PCRs than were asked for",
    act: "verify with the `--bank` that was asked for; else keep the report",
  },
  "pcr-section": { means: "the PCR values in the report are of another bank or selection", act: "as `pcr-selection`" },
  "pcr-digest": {
    means: "the PCR values in the report are not the ones that were quoted",
    act: "the report was changed on its way",
  },
  "pcr-replay": {
    means: "the logs do not replay to a quoted PCR",
    act: "keep the report: something was extended that no log tells, or a log was edited",
  },
  "firmware-log-agent-pcr": {
    means: "the firmware extended the agent PCR",
    act: "move the agent to another PCR (`agentPcr`), or find out what extends it",
  },
  claim: {
    means: "a claim contradicts what the TPM or the challenge says",
    act: "keep the report: no released agent says this",
  },
  "claim-measured": {
    means: "a claim contradicts the measured log",
    act: "keep the report: no released agent says this",
  },
  "tpm-rolled-back": {
    means: "the TPM's reset counts are behind those of the last report: older TPM state was put back",
    act: "find out who did that; until then change the PIN at the HSM",
  },
  "clock-went-back": { means: "the TPM's clock is behind the last report's", act: "as `tpm-rolled-back`" },
  "epoch-went-back": { means: "the epoch counter is behind the last report's", act: "as `tpm-rolled-back`" },
  "audit-rolled-back": {
    means: "the audit log ends before the record that an earlier report named",
    act: "find out who put it back; if a new volume was meant, accept it (`POST /v1/machines/NAME/continuity`)",
  },
  "boot-forked": {
    means:
      "the TPM has been started as often as at an earlier report, and the system was started since: state of before that boot was put back, or the system was started without the TPM (kexec)",
    act: "find out who put it back; if it was meant, accept it (`POST /v1/machines/NAME/continuity`)",
  },
  "audit-forked": {
    means: "the audit log has another record in the place of one that an earlier report named",
    act: "keep both reports and the log: the log was rewritten",
  },
  "key-certificate": {
    means: "the key of the audit log's checkpoints is not the one that the attestation key certified",
    act: "keep the log; compare the enrolment",
  },
  replayed: { means: "this report was handed in before", act: "ask for a new challenge" },
} as const satisfies Meanings;

/** What no result establishes, in its own words (attest/APPRAISAL.md, section 5). */
export const NOT_PROVEN_CODES: Meanings = Object.fromEntries(
  everyNotProven.map(({ code, text }) => [
    code,
    { means: text, act: "no finding: decide whether it matters to you (auditors.md)" },
  ]),
);
