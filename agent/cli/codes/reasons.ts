import { UNSEAL_FINDINGS, type UnsealFindingCode } from "../../../seal/index.ts";
import type { Meanings } from "./meaning.ts";

/** What each finding of `unseal --check` says; the advice is the finding's own. The operator guide has a section for each. */
const SEALED: Readonly<Record<UnsealFindingCode, string>> = {
  "tpm-replaced":
    "the sealed package is for another endorsement key, and no certificate in this TPM is for that key: this is another TPM",
  "parent-changed":
    "the TPM has the certificate of the key, but makes another key from the same template: its endorsement seed was changed",
  "wrong-hierarchy": "the package's parent lies in the owner hierarchy",
  "hierarchy-disabled": "the owner or endorsement hierarchy is switched off in this boot",
  "endorsement-auth-set": "somebody set the endorsement authorisation, which has to be empty",
  "tpm-cleared": "the store knows this TPM, and its counter or records are gone: TPM2_Clear",
  "tpm-not-provisioned": "counter or records are missing, and the machine may not define them by itself",
  "tpm-locked-out": "the dictionary-attack lockout is on; nothing of ours is subject to it",
  "epoch-unwritten": "the epoch counter is defined and was never incremented",
  "epoch-foreign": "at the epoch counter's index lies another one",
  frozen: "everything is frozen, or the scope is",
  "freeze-missing": "counter and records are there, and the freeze bits are not",
  "freeze-foreign": "at the index of the freeze bits lies another one",
  "pcr-bank-inactive": "the SHA-256 or the SHA-384 bank is not active",
  "pcr-never-extended": "PCR 4, 9 or 11 is zero: the firmware or the loader measured nothing",
  "measurement-changed": "a PCR has another value than the release's; a launch also names the event",
  "agent-not-launched": "the boot is as released, and the agent has measured nothing yet",
  "agent-pcr-capped": "the launch of this boot is over, however it ended",
  "release-missing": "the cabinet holds no release",
  "release-malformed": "a file in the cabinet's slot `release` cannot be read",
  "release-not-trusted": "the release is not signed under this machine's root",
  "release-expired": "the release's `notAfter` lies behind the machine's clock",
  "release-not-yet-valid": "the release's `notBefore` lies ahead of the machine's clock",
  "release-revoked": "the epoch counter has passed the release's epoch: a later release ended it",
  "release-key-revoked": "the counter has passed the last epoch for which the root delegated the release key",
  "credential-not-delegated": "the release key may not sign for this credential",
  "credential-missing": "policy or configuration need a credential that neither cabinet nor store has",
  "credential-expired": "the credential's `notAfter` has passed",
  "credential-rolled-back": "a later generation of it was tried on this TPM",
  "credential-ambiguous": "two different packages claim one name and generation",
  "blob-damaged": "the package fails its signature or form, or the TPM refuses its blob",
  "login-tried":
    "the PIN of this generation was handed to the token and was refused, or nobody knows how the try ended",
};

export const UNSEAL_CODES: Meanings = Object.fromEntries(
  Object.entries(UNSEAL_FINDINGS).map(([code, { advice }]) => [
    code,
    { means: SEALED[code as UnsealFindingCode], act: advice }, // the keys are the type
  ]),
);

/** Other reasons of a launch that was refused, and what `status` says of the audit log. */
export const LAUNCH_CODES = {
  "library-mismatch": {
    means: "a file of the library, its closure or its configuration is not the pinned one",
    act: "put the pinned bundle back, or pin and release the new one",
  },
  "pcr-changed": { means: "a PCR is not the release's; the events beside it say why", act: "as `measurement-changed`" },
  "agent-pcr-used": {
    means: "something extended the agent PCR before the agent did",
    act: "find out what; nothing else may use it",
  },
  "tpm-refused": {
    means: "everything compared equal, and the TPM said no all the same; its own codes are in the report",
    act: "keep the report: this is either a fault of ours or an attack",
  },
  "tpm-would-release": {
    means: "something differs, and the TPM would release although it should not",
    act: "stop using this release: it does not bind what it should",
  },
  "hsm-absent": {
    means: "no slot has the token's label and serial, or the PIN is for another one",
    act: "connect the HSM, or seal for the right token",
  },
  "hsm-final-try": {
    means: "the token says that one more wrong PIN locks it",
    act: "reset the count at the HSM as its maker says; no PIN was tried",
  },
  "hsm-locked": {
    means: "the token says that it is locked",
    act: "reset the count at the HSM as its maker says; no PIN was tried",
  },
  "pin-refused": {
    means: "the token refused the PIN, with this CKR code",
    act: "as `login-tried`: it is not tried again",
  },
  "key-unknown": {
    means: "the token lacks a key of the policy, or holds it twice",
    act: "correct the policy and release it, or correct the token",
  },
  "key-mismatch": {
    means: "the token signs with another key than the policy names",
    act: "correct the policy and release it, or correct the token",
  },
  "key-attributes": {
    means:
      "the key could leave the token or once could, or the token does not let it do what the policy says; the item names the attribute",
    act: 'make the key as it should be on the token, or correct the policy and release it. For a key whose history the token does not tell (imported, older than the token\'s flags): `"accepts": ["unknown-history"]`',
  },
  "key-always-authenticate": {
    means: "the key wants the PIN at each use (CKA_ALWAYS_AUTHENTICATE), and nobody has it any more by then",
    act: "make the key without that attribute",
  },
  "token-pin-pad": {
    means: "the token takes its PIN at a keypad of its own: no machine can log in to it by itself",
    act: "use another token, or switch its keypad off",
  },
  "pin-not-tried": {
    means: "no PIN reached the shim, or the token gave it no session; no try was made, and the next boot may make one",
    act: "restart; if it comes again, the reason says what is missing",
  },
  "sandbox-violation": {
    means:
      "a library tried what its sandbox denies before it served; the item names token, shim and system call. If it did so while it was loaded, no PIN was unsealed",
    act: "do not serve with this library: keep the report, ask its maker",
  },
  "sandbox-weaker": {
    means: "this kernel's Landlock lacks a feature that the policy does not do without",
    act: "a newer kernel; or, having read what is lost (`policy/POLICY.md`), name it in `sandbox.lacks` and release the policy",
  },
  "seccomp-filters": {
    means: "a shim runs under another number of filters than its own three and those it inherited",
    act: "as `sandbox-escape`",
  },
  "device-foreign": {
    means: "the machine shows a device that the policy does not name",
    act: "take it away, or name it and release the policy",
  },
  "unpinned-object": {
    means: "the loader mapped a file that is not pinned",
    act: "pin again with `ironclaw measure`, and release the policy",
  },
  "sandbox-escape": {
    means: "the sandbox does not hold: an attempt that must be denied succeeded",
    act: "do not serve from this machine; keep the report, and report it as a fault",
  },
  "probe-unseen": {
    means: "the kernel showed none of the attempts that the escape probe made: nobody knows whether the sandbox holds",
    act: "do not serve from this machine; keep the report, and report it as a fault",
  },
  "credential-kind": {
    means: "the policy uses a credential as something else than it was sealed as: a PIN as a file, a file as the PIN",
    act: "seal it with the right kind, or correct the policy and release it",
  },
  "state-missing": { means: "no disk for the state volume", act: "attach it" },
  "state-blank": {
    means: "the disk is empty, and the TPM knows a volume",
    act: "attach the right disk; if it is lost: `ironclaw order new-volume`",
  },
  "state-damaged": {
    means: "header, metadata or size are not what was written",
    act: "restore the disk from a copy that is not older than the last anchor, or `ironclaw order new-volume` with a blank disk",
  },
  "state-truncated": {
    means: "header, metadata or size are not what was written",
    act: "restore the disk from a copy that is not older than the last anchor, or `ironclaw order new-volume` with a blank disk",
  },
  "state-foreign": {
    means: "the volume does not authenticate under this machine's key",
    act: "restore the disk from a copy that is not older than the last anchor, or `ironclaw order new-volume` with a blank disk",
  },
  "state-swapped": {
    means: "another volume than the one the TPM knows, under the same key",
    act: "restore the disk from a copy that is not older than the last anchor, or `ironclaw order new-volume` with a blank disk",
  },
  "state-key": { means: "no key came out for the state volume", act: "the reasons before it say which" },
  "state-kernel": {
    means: "the kernel lacks a part that the state volume needs",
    act: "the reasons before it say which",
  },
  "audit-space-low": {
    means: "less than an eighth of the state volume is free, 8 MiB at most",
    act: "`ironclaw audit export`, find out who makes so many records (`audit show`), give that scope a `rate`; else plan a new volume",
  },
  "audit-full": {
    means: "the volume has only its reserve left: nothing is signed",
    act: "export the log, then `ironclaw order new-volume` with a blank disk; segments older than seven days go by themselves",
  },
  "audit-stopped": {
    means: "a record could not be written: nothing is signed in this boot",
    act: "look at the disk behind the state volume, then reboot",
  },
  "state-full": {
    means: "the state volume has no room left",
    act: "read the log out (`audit` on the control port), then `ironclaw order new-volume` with a blank disk",
  },
  "audit-rolled-back": {
    means:
      "the audit log ends before the record that the TPM remembers: an older copy of the volume, or a log that was cut",
    act: "find out who put it back; keep it as evidence; then `ironclaw order new-volume` with a blank disk: on any other disk the log that is there is taken over",
  },
  "tpm-rolled-back": {
    means:
      "the TPM's epoch counter or reset count is behind what the state volume remembers: an older TPM state was put back",
    act: "find out who did that; if it was meant, `ironclaw order new-volume`, and change the PIN",
  },
  "reasons-left-out": {
    means: "there are more reasons than a report has room for (256, 64 KiB); it says how many more",
    act: "`status` has them all; the first ones are usually enough",
  },
} as const satisfies Meanings;

/** Why a token, or a machine, that served does so no longer. */
export const SERVING_CODES = {
  "sandbox-violation": {
    means: "a library tried what its sandbox denies; its token was stopped (`kill`)",
    act: "keep the report, ask the library's maker; reboot only after that: the next launch begins a new log",
  },
  "device-foreign": {
    means: "a device came while the machine served, and all tokens were stopped",
    act: "find out who plugged it in; then reboot",
  },
  "devices-unreadable": {
    means:
      "the machine's devices could not be listed five times in a row. Under `kill` all tokens were stopped; under `report` they are served, and `status` says so",
    act: "look at the console; then reboot",
  },
  "login-lost": {
    means:
      "no shim of the token is logged in any more; the reason says what the last one ended with. A network HSM whose library says nothing of the login is found by the first operation that fails: a look at the token that shows no key",
    act: "look at the HSM; then reboot, if the machine does not by itself",
  },
  "agent-lost": {
    means:
      "the boot before this one ended because its agent did; the reason has the spawner's words. The launch was refused for it: for now, when the console says `reboot in`; else until you restart the machine",
    act: "read the console of the boot before, and the audit log; then restart, if the machine does not by itself. If it comes again, keep the console and report it as a fault",
  },
  "recovery-limit": {
    means: "the login or the agent was lost again after five launches in a row",
    act: "the HSM, or the agent, needs somebody: nothing is tried any more. A restart by hand counts as the next try",
  },
  "recovery-withheld": {
    means: "the policy says reboot, and this boot has seen a violation: its log is kept for you",
    act: "take a report, then reboot",
  },
  "recovery-uncounted": {
    means: "the policy says reboot, and the machine has no store to count in, or the store could not be written",
    act: "attach a store disk, or choose `stop`",
  },
  "incident-not-measured": {
    means: "the TPM did not take an event: log and PCR may disagree, and reports may not verify",
    act: "reboot; if it comes again, replace the TPM",
  },
  "tpm-unreachable": {
    means:
      "the connection to the TPM was lost and cannot be opened again. What is served goes on; there are no reports, no checkpoints, nothing is anchored, a freeze holds until the reboot only",
    act: "it is tried every ten seconds. Look at the TPM and at the console; if it was reset, or does not come back, reboot",
  },
  "notifier-blind": {
    means: "nobody receives a shim's denied attempts any more, so its token was stopped, also under `report`",
    act: "reboot; if it comes again, keep the report and have the agent looked at",
  },
} as const satisfies Meanings;
