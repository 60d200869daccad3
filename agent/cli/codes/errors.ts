import { AttestError, type AttestErrorCode } from "../../../attest/errors.ts";
import { ServiceError, type ServiceErrorCode } from "../../../attest/service/errors.ts";
import { PolicyError, type PolicyErrorCode } from "../../../policy/errors.ts";
import type { IronclawError } from "../../../policy/index.ts";
import { SealError, type SealErrorCode } from "../../../seal/errors.ts";
import { ImageError, type ImageErrorCode } from "../../../vm-images/errors.ts";
import { AgentError, type AgentErrorCode } from "../../errors.ts";
import type { Meaning } from "./meaning.ts";

/** The errors of a folder: complete, because its codes are a closed union. */
export interface ErrorFamily {
  readonly from: string;
  readonly codes: Readonly<Record<string, Meaning>>;
  readonly exitOf: (code: string) => number;
}

function family<Code extends string>(
  from: string,
  make: (code: Code) => IronclawError,
  codes: Readonly<Record<Code, Meaning>>,
): ErrorFamily {
  return { from, codes, exitOf: (code) => make(code as Code).exitCode }; // asked for the family's own codes
}

const damaged = "take the file again from where it was made; nothing of it was used";

const POLICY = family<PolicyErrorCode>("policy", (code) => new PolicyError(code, ""), {
  ERR_BYTES_TRUNCATED: { means: "binary input ends too early", act: damaged },
  ERR_BYTES_TRAILING: { means: "binary input goes on after its end", act: damaged },
  ERR_BYTES_VALUE: { means: "a number, length or byte in binary input is none that the format has", act: damaged },
  ERR_CBOR_MALFORMED: { means: "input is not canonical CBOR of the expected form", act: damaged },
  ERR_CABINET_MALFORMED: {
    means: "the cabinet is not one",
    act: "`ironclaw cabinet list` names what is there; make it again with `ironclaw cabinet new`",
  },
  ERR_CABINET_CHECKSUM: {
    means: "a slot of the cabinet has another checksum than its table says",
    act: "put that document into the cabinet again (`ironclaw cabinet put`)",
  },
  ERR_ENVELOPE_MALFORMED: { means: "a signed document is not one", act: damaged },
  ERR_ENVELOPE_SIGNATURE: {
    means: "the signature of a document is not of the key that counts",
    act: "compare which key signed it; sign it with the right one",
  },
  ERR_POLICY_MALFORMED: {
    means: "a policy, configuration or other JSON document cannot be read; the message has line and column",
    act: "correct the document; `ironclaw policy check` lists all findings",
  },
  ERR_POLICY_INVALID: {
    means: "a policy can be read and contradicts itself",
    act: "correct what `ironclaw policy check` lists",
  },
  ERR_POLICY_WIDENS: {
    means: "the policy would allow what the one in force does not; the message names each field",
    act: "narrow it further, or release it",
  },
  ERR_PROFILE_INVALID: {
    means: "a sandbox profile does not compile, or its compiled form cannot be read",
    act: "correct the line that is named; the grammar is in policy/runtime/README.md",
  },
  ERR_RELEASE_MALFORMED: { means: "a release or prediction cannot be read", act: damaged },
  ERR_RELEASE_SIGNATURE: {
    means: "a release, delegation or its chain does not verify under this root",
    act: "compare the anchors with the root that signed; sign it with a delegated key",
  },
  ERR_RELEASE_EXPIRED: { means: "the release has ended", act: "sign it again with a later end, or correct the clock" },
  ERR_RELEASE_NOT_YET_VALID: { means: "the release has not begun", act: "wait, or correct the clock" },
  ERR_KEY_MALFORMED: {
    means: "a key is not of the kind or form that is needed here",
    act: "give a key as the message says",
  },
  ERR_SIGNATURE_MALFORMED: { means: "a signature cannot be read", act: "take it again from where it was made" },
});

const ATTEST = family<AttestErrorCode>("attest", (code) => new AttestError(code, ""), {
  ERR_EVIDENCE_MALFORMED: {
    means: "a report, or a section of it, cannot be read",
    act: "take it from the machine again; `ironclaw report --from FILE --export DIR` shows which section",
  },
  ERR_EVIDENCE_REFUSED: {
    means: "a report does not verify; all reasons are listed",
    act: "the rows of [reports that do not verify](#reports-that-do-not-verify)",
  },
  ERR_CLAIMS_MALFORMED: {
    means: "the claims of a report cannot be read",
    act: "another version of the agent made it: verify it with that version; else it was changed",
  },
  ERR_TPM_STRUCTURE: { means: "bytes that should be a structure of the TPM are none", act: damaged },
  ERR_CEL_MALFORMED: { means: "the agent log cannot be read", act: damaged },
  ERR_LAUNCH_EVENT: { means: "an event of the agent log is none that the format has", act: damaged },
  ERR_FIRMWARE_LOG: {
    means: "the firmware log cannot be read, or ends before ExitBootServices",
    act: "update the firmware, or use one that measures to the end (threat model, N14)",
  },
  ERR_ENDORSEMENT_MALFORMED: {
    means: "an EK certificate or endorsement cannot be read",
    act: "give the certificate as DER or PEM, as the TPM has it",
  },
  ERR_ENDORSEMENT_REFUSED: {
    means: "the EK certificate does not lead to a trust anchor, or is not fit",
    act: "`ironclaw ek show` says what it gets and why not",
  },
  ERR_ENROLMENT_MALFORMED: { means: "an enrolment cannot be read", act: damaged },
  ERR_TRUST_ANCHORS: {
    means: "the document of trust anchors cannot be used",
    act: "correct the field that is named (attest/ENROLMENT.md, section 4)",
  },
  ERR_APPRAISAL_POLICY: {
    means: "an appraisal policy cannot be used",
    act: "correct the field that is named; `ironclaw appraisal check` explains the rest",
  },
  ERR_RESULT_MALFORMED: { means: "an attestation result cannot be read", act: damaged },
  ERR_EAR_MALFORMED: { means: "a signed result is none", act: damaged },
  ERR_EAR_REFUSED: {
    means: "a signed result is not of this key, has expired, or answers another nonce",
    act: "ask the verifier for a new one; compare its public key",
  },
  ERR_CREDENTIAL: {
    means: "the answer to the enrolment challenge is another one",
    act: "enrol again: another TPM answered, or the machine restarted meanwhile",
  },
  ERR_PE_MALFORMED: { means: "the kernel image is no PE file", act: "build the image again" },
  ERR_ELF_MALFORMED: { means: "a library is no ELF file", act: "give the library itself, not a linker script" },
  ERR_ELF_UNSUPPORTED: {
    means: "a library uses what the closure does not follow, or is for another machine",
    act: "the message names the entry; see agent/cli/README.md on `measure`",
  },
  ERR_CLOSURE_MISSING: {
    means: "a library that is needed is not there",
    act: "put it into the module bundle, or name it with `--also`",
  },
  ERR_MEASURE: { means: "a file cannot be measured", act: "look at the file that is named" },
  ERR_CLOSURE: {
    means: "the closure has one file under two paths, or more than a machine takes",
    act: "keep one of them",
  },
  ERR_PCR_PREDICTION: {
    means: "the image is not of a form whose PCRs can be computed",
    act: "build it with `ironclaw image build`, or with what agent/docs/install.md names for your system",
  },
  ERR_TPM: {
    means: "the TPM refused a command",
    act: "the answer is in the message: reboot, and if it comes again keep it",
  },
  ERR_TPM_UNAVAILABLE: {
    means: "there is no TPM at this address",
    act: "compare `--tcti`; is another program holding it?",
  },
});

const SEAL = family<SealErrorCode>("seal", (code) => new SealError(code, ""), {
  ERR_SEALED_MALFORMED: {
    means: "the sealed package is malformed, or for another release root",
    act: "take it again, or seal it for this root",
  },
  ERR_SEAL_INPUT: { means: "a PIN, name or number that cannot be sealed", act: "as the message says" },
  ERR_SEAL_EK: {
    means: "the certificate's key is not one that an EK has, or nothing is sealed to this kind",
    act: "use the RSA-2048 or P-384 certificate of the TPM",
  },
  ERR_SEAL_WRONG_PARENT: {
    means: "the package's parent is not an endorsement key of this TPM",
    act: "seal it for this TPM",
  },
  ERR_RELEASE_REFUSED: {
    means: "values that must not be signed: another policy shape, a PCR that can be reset, zeros",
    act: "predict again from the image that is meant",
  },
  ERR_SEAL_POLICY: {
    means: "a policy that cannot be run: what a step needs is not there",
    act: "`ironclaw unseal --check` names it",
  },
  ERR_SEAL_RECORD: {
    means: "a record in the TPM that no agent wrote, another index in the place of one, or no room for another name",
    act: "find out who wrote it; undefine the index with the owner's authorisation, then `ironclaw tpm provision`. The log-in records begin anew: see `tpm-cleared`",
  },
  ERR_STORE: {
    means: "the store cannot be read or written",
    act: "look at the disk behind it; without a store everything is imported again at each boot",
  },
  ERR_SEAL_TPM: {
    means: "the TPM refused a command; its answer is the cause",
    act: "reboot; if it comes again keep the message",
  },
  ERR_SEAL_OWNED: {
    means: "the TPM has an owner whose authorisation is not the one given, or none was",
    act: "`--escrow` with the file of this TPM",
  },
  ERR_RESEAL_REFUSED: {
    means: "a generation that is not newer, or that the next boot could not unseal",
    act: "seal a higher generation; `ironclaw unseal --check` says what is in the way",
  },
  ERR_ORDER: {
    means: "an operator's order that is malformed, or for another machine or state",
    act: "give the order again: the machine has moved on since",
  },
  ERR_KEY_FILE: {
    means: "a key file is missing, readable by others, or of another kind",
    act: "mode 0600, and the kind that the message names",
  },
  ERR_KEY_TOKEN: {
    means: "a signing key on a token: no such key, two of them, or the token refused",
    act: "compare the URI with the token; one PIN try left is not used",
  },
  ERR_UNSEALER: {
    means: "the unsealer could not be run, or its answer cannot be read",
    act: "is `build/native/unsealer` there (`npm start` builds it)?",
  },
});

const AGENT = family<AgentErrorCode>("agent", (code) => new AgentError(code, ""), {
  ERR_SHIM_PROTOCOL: {
    means: "the shim sent bytes that the protocol does not allow; its connection is closed",
    act: "a spare takes over; keep the report and compare the library",
  },
  ERR_SHIM_GONE: { means: "the shim ended, or its connection was closed", act: "the log says how; a spare takes over" },
  ERR_SHIM_TIMEOUT: { means: "no answer in time; the shim is ended", act: "look at the HSM" },
  ERR_SHIM_REFUSED: {
    means: "the library answered with a CK_RV other than CKR_OK; it is in the message",
    act: "look it up in PKCS#11 and at the HSM",
  },
  ERR_TOKEN_STOPPED: { means: "the token is no longer served", act: "[why](#a-machine-that-served)" },
  ERR_KEY_GONE: {
    means: "a key that came in by unwrap is no longer there: the shim that had it ended",
    act: "let it in again",
  },
  ERR_WITHHELD: {
    means: "what waited for a shim to be replaced is not allowed any more by then: the token is not asked",
    act: "the audit log has what was taken away",
  },
  ERR_KEY_MISMATCH: {
    means: "a key that came in by unwrap is not the private half of the public key that the policy gives",
    act: "compare the wrapped key with the policy",
  },
  ERR_SPAWNER: { means: "the spawner answered with a failure or not at all", act: "the log has its words" },
  ERR_STATE_VOLUME: { means: "the state volume cannot be opened", act: "the `state-...` reason says why" },
  ERR_CONTROL_MALFORMED: {
    means: "a line on the control port, or a machine's answer, cannot be read",
    act: "command and machine are of one version?",
  },
  ERR_CONFIG_INVALID: {
    means: "the configuration cannot be used",
    act: "correct the field that is named (agent/README.md)",
  },
  ERR_CABINET_UNREADABLE: {
    means: "the machine's cabinet cannot be read: it is not there, is no file or partition, or gives errors",
    act: "attach the cabinet's disk, and let the agent's user read it; if it gives errors, write the cabinet to another disk",
  },
  ERR_AUDIT_WRITE: {
    means: "a decision record could not be written: nothing is signed",
    act: "look at the disk behind the state volume, then reboot",
  },
  ERR_AUDIT_MALFORMED: {
    means: "the audit log does not follow its format: it was edited",
    act: "as `audit-rolled-back`: a new volume is the only way on",
  },
  ERR_AUDIT_ROLLED_BACK: {
    means: "an audit log ends before a record that is known to have been in it",
    act: "find out who put it back, and keep it as evidence",
  },
  ERR_RPC_MALFORMED: {
    means: "a workload's message cannot be read; its connection is closed",
    act: "look at the client",
  },
  ERR_FOREIGN_SENDER: {
    means: "a connection is in other hands than those that connected; it is closed",
    act: "look at who inherited or passed on the socket",
  },
  ERR_LAUNCH: { means: "the launch cannot go on", act: "the reasons beside it say why" },
  ERR_APPROVAL: {
    means: "a request for approval is not there, or not what its approver wants to approve",
    act: "`ironclaw approve list`, and compare `--enrolment`, `--policy`, `--input`",
  },
  ERR_FREEZE: {
    means: "no scope of that name has a `freezeBit`, or the machine was narrowed 64 times in this boot",
    act: "`--all`; or give the scope a bit and release the policy",
  },
  ERR_NATIVE: {
    means: "a system call of the native addon failed",
    act: "the message names it; restart, and if it comes again report it",
  },
  ERR_ENVIRONMENT: {
    means: "a file, device, machine or setting that is needed is missing",
    act: "the message names it",
  },
});

const SERVICE = family<ServiceErrorCode>("attest/service", (code) => new ServiceError(code, ""), {
  ERR_SERVICE_CONFIG: {
    means: "`verifier.json` cannot be used",
    act: "correct the field that is named; `ironclaw verifier check`",
  },
  ERR_SERVICE_FILE: {
    means: "a file that the service needs cannot be read or written",
    act: "look at the file that is named",
  },
  ERR_SERVICE_STORE: {
    means: "the database cannot be read or written",
    act: "look at the disk; restore from a backup",
  },
  ERR_SERVICE_LISTEN: {
    means: "the service cannot listen at its address",
    act: "is another one there? A socket of a living program stays",
  },
  ERR_SERVICE_ANSWER: {
    means: "the service answered with what its interface does not have",
    act: "command and service are of one version?",
  },
  ERR_SERVICE_REFUSED: {
    means: "the service refused; its code is in the message",
    act: "[answers of the verifier service](#answers-of-the-verifier-service)",
  },
  ERR_SERVICE_UNREACHABLE: { means: "nobody answers at the service's address", act: "is it running? `--to`, `--ca`" },
  ERR_WORKER_TIMEOUT: {
    means: "a report was not judged in time",
    act: "hand it in again; raise `limits` if it comes often",
  },
  ERR_WORKER_FAILED: { means: "a judging thread ended", act: "hand the report in again; keep it if it comes again" },
  ERR_WORKER_BUSY: { means: "too many reports wait", act: "hand it in again later" },
  ERR_WORKER_CLOSED: { means: "the service is stopping", act: "hand it in again when it runs" },
});

const IMAGES = family<ImageErrorCode>("vm-images", (code) => new ImageError(code, ""), {
  ERR_IMAGE_TOOL: {
    means: "a program that builds images failed or is missing",
    act: "`sh vm-images/machine.sh` installs them",
  },
  ERR_IMAGE_PACKAGE: {
    means:
      "a Debian package is not the locked one, is not to be had, or has another file of a name that another one has",
    act: "is the mirror reachable? A locked version that is gone marks the image `unlocked`. Of two packages with one file a recipe takes one",
  },
  ERR_IMAGE_SOURCE: { means: "a source of the image is missing or not as it must be", act: "the message names it" },
  ERR_IMAGE_MALFORMED: { means: "an image or its manifest cannot be read", act: "build it again" },
  ERR_IMAGE_PLACE: { means: "a folder to write into cannot be made", act: "name another place, or its owner does" },
  ERR_VM_DEVICE: {
    means: "a device was to be passed to the machine that its policy does not list",
    act: "list it in the policy, which needs a new release; or leave it out",
  },
  ERR_HOST_MALFORMED: {
    means: "a host's configuration is no libvirt domain and no QEMU command line that is understood here",
    act: "give the output of `virsh dumpxml`, or the command line as QEMU was started with",
  },
  ERR_VM_START: {
    means: "the virtual machine does not start, or the folder is none to start one in",
    act: "QEMU's words, or what is wrong with the folder, are in the message",
  },
  ERR_VM_TIMEOUT: {
    means: "the virtual machine did not answer in time",
    act: "look at its console; without KVM a boot takes half a minute",
  },
  ERR_VM_EXITED: { means: "the virtual machine ended by itself", act: "look at its console" },
  ERR_VM_TPM: { means: "the software TPM does not start", act: "is `swtpm` installed? Is its state in use?" },
  ERR_VM_PORT: { means: "a port of the machine cannot be reached", act: "does it run, and is it this directory?" },
  ERR_VM_CONTROL: {
    means: "the machine's answer on the control port cannot be read",
    act: "image and command are of one version?",
  },
  ERR_VM_REFUSED: { means: "the machine answered no; its code is in the message", act: "look the code up here" },
});

/** What is no folder's: how a command was called, and what nobody foresaw. */
const COMMAND: ErrorFamily = {
  from: "the command",
  codes: {
    ERR_USAGE: {
      means: "the command was called in a way that cannot be",
      act: "`--help` after the command has its options and examples",
    },
    ERR_INTERNAL: { means: "a failure that nobody foresaw", act: "keep the message, and report it as a fault" },
    ERR_UNEXPECTED: {
      means: "a reason made of a failure that nobody foresaw",
      act: "keep the message, and report it as a fault",
    },
  },
  exitOf: (code) => (code === "ERR_USAGE" ? 2 : 4),
};

export const ERROR_FAMILIES: readonly ErrorFamily[] = [COMMAND, POLICY, ATTEST, SEAL, AGENT, SERVICE, IMAGES];
