import { type RefusalCode, refusals } from "../../../attest/service/errors.ts";
import type { EventKind } from "../../../attest/service/machine-state.ts";
import type { DecisionStep } from "../../../policy/decide.ts";
import type { LintCode, NoteCode } from "../../../policy/index.ts";
import type { ApprovalRefusalCode } from "../../approvals/approvers.ts";
import type { RefusalStep } from "../../broker/refused.ts";
import type { ClientErrorCode } from "../../client/errors.ts";
import type { Meaning, Meanings } from "./meaning.ts";

type Complete<Code extends string> = Readonly<Record<Code, Meaning>>;

const SERVICE_ACTS: Readonly<Record<RefusalCode, string>> = {
  malformed: "compare the request with attest/VERIFIER.md",
  unauthenticated: "give a token (`--token`), or the client certificate that the service knows",
  "token-refused": "ask an operator for another one: `ironclaw verifier invite`",
  forbidden: "use an operator's token",
  "not-found": "compare the name; `GET /v1/machines` lists them",
  "name-taken": "choose another name, or have an operator retire the machine that has it",
  clone: "find out which name is right; an operator retires the other one",
  "key-changed": "have an operator invite the machine again",
  "nonce-over": "ask for a new challenge",
  "enrolment-over": "begin the enrolment again",
  "too-large": "reports have at most the size that attest/EVIDENCE.md names",
  "media-type": "compare the request with attest/VERIFIER.md",
  "evidence-refused": "[reports that do not verify](#reports-that-do-not-verify); a viewer's token shows the reasons",
  "endorsement-refused": "`ironclaw ek show` says what the certificate gets and why not",
  "credential-refused": "enrol again: another TPM answered, or the machine restarted meanwhile",
  "too-many": "wait; raise `limits` if it comes often",
  internal: "read the service's log",
  busy: "try again; raise `limits` if it comes often",
  "not-judged": "hand the report in again",
  closing: "try again when the service runs",
};

/** Answers of the verifier service; the text of each is the service's own. */
export const SERVICE_CODES: Meanings = Object.fromEntries(
  Object.entries(refusals).map(([code, { status, text }]) => [
    code,
    { means: `${text} (status ${status})`, act: SERVICE_ACTS[code as RefusalCode] }, // the keys are the type
  ]),
);

/** Why a signature does not count as an approval. */
export const APPROVAL_CODES: Complete<ApprovalRefusalCode> = {
  "unknown-request": {
    means: "the request was used, has expired, or the machine started again",
    act: "let the caller try again, and sign the new request",
  },
  malformed: {
    means: "the signature cannot be read",
    act: "sign with `ssh-keygen -Y sign`, with an Ed25519 key or security key",
  },
  "wrong-namespace": { means: "the signature is for something else", act: "sign with `-n ironclaw-approval@1`" },
  "not-touched": { means: "the security key was not touched", act: "touch it" },
  "not-verified": {
    means: "the security key did not verify its user",
    act: "give its PIN (`ssh-keygen -O verify-required` made a key that asks for it)",
  },
  "bad-signature": {
    means: "the signature is over other bytes: another request, or a text that an editor changed",
    act: "sign what `ironclaw approve show ID --out FILE` writes",
  },
  "unknown-key": {
    means: "the policy does not know this key",
    act: "ask one whom `approve list --json` names in `of`",
  },
  "not-listed": {
    means: "the policy does not want this person for this scope",
    act: "ask one whom `approve list --json` names in `of`",
  },
  "not-for-caller": { means: "the policy does not let this person approve for this caller", act: "ask another one" },
  "approved-already": { means: "this person has approved the request", act: "another person is needed" },
};

/** Where an operation ended: the audit log's `step` (policy/POLICY.md has what holds at each). */
export const STEP_CODES: Complete<DecisionStep | RefusalStep> = {
  caller: {
    means: "the scope is for another uid, unit or executable",
    act: "an application that was updated has a new digest: release it in the policy. Else find out who asked",
  },
  frozen: { means: "the scope, or everything, is frozen", act: "operator-guide.md, stopping a scope" },
  valid: {
    means: "it is before or after the scope's validity",
    act: "correct the clock, or release a policy with other dates",
  },
  key: { means: "the scope does not show this key", act: "look at who asked for it" },
  operation: { means: "the key does something else", act: "look at who asked for it" },
  mechanism: {
    means: "no rule of the scope has this mechanism",
    act: "change the caller, or release a policy with the rule",
  },
  parameters: {
    means: "hash, salt, digest or length are not the rule's",
    act: "change the caller, or release a policy with the rule",
  },
  approvals: { means: "people have to approve it first", act: "`ironclaw approve list --machine DIR`" },
  rate: { means: "the scope or the key is asked more often than its rate", act: "wait; or release another rate" },
  budget: { means: "operations or failures are used up", act: "find out who used them; a restart begins them anew" },
  session: { means: "the caller's session has ended: its lifetime or idle time", act: "the caller opens another one" },
  busy: { means: "too many requests wait for the token", act: "the caller asks again; look at the HSM" },
  audit: { means: "the record could not be written", act: "run-book.md, the audit log" },
  token: {
    means: "the token refused, did not answer, or answered with what does not verify",
    act: "run-book.md, the token gives no result",
  },
};

/** Errors of the TypeScript client, in a workload. */
export const CLIENT_CODES: Complete<ClientErrorCode | "ERR_REFUSED"> = {
  ERR_CLIENT_UNREACHABLE: {
    means: "nobody serves the socket; nothing was sent",
    act: "is the machine serving, and the scope's socket the right one?",
  },
  ERR_CLIENT_CONNECTION_LOST: {
    means: "the connection broke before the answer came: it may have been carried out",
    act: "the caller decides whether to ask again",
  },
  ERR_CLIENT_PROTOCOL: {
    means: "the agent sent what RPC.md does not allow",
    act: "client and agent are of one version?",
  },
  ERR_CLIENT_CLOSED: { means: "client or session were closed before; nothing was sent", act: "open another one" },
  ERR_REFUSED: {
    means: "the agent's no; `reason` says what the caller can do (agent/RPC.md)",
    act: "the audit log has the step",
  },
};

/** Warnings and notes of `ironclaw policy check`. */
export const LINT_CODES: Complete<LintCode | NoteCode> = {
  "no-owner": { means: "`owner` is blank: nobody answers for the document", act: "name somebody" },
  "review-passed": { means: "`reviewBy` has passed", act: "review the policy, and set the next date" },
  "review-far": { means: "`reviewBy` is more than 366 days away", act: "set an earlier date" },
  "many-logins": {
    means: "many shims log in to each token of the module, one after the other",
    act: "see that the HSM allows as many sessions; or lower `shims` or `spares`",
  },
  "unused-key": { means: "no scope shows the key", act: "take it out, or use it" },
  "unused-caller": { means: "no scope is for the caller", act: "take it out, or use it" },
  "unused-approver": { means: "no scope asks for the approver", act: "take it out, or use it" },
  "shared-identity": {
    means: "two callers of one uid share an executable, and their units do not tell them apart",
    act: "give them units or uids of their own",
  },
  "scope-ended": { means: "the scope's `valid.until` has passed", act: "take it out, or set another date" },
  "unreachable-rule": {
    means: "a mechanism that no key which arrives from the scope's `from` can do",
    act: "take the rule out",
  },
  "excluded-approver": { means: "an approver is listed who may not approve for this caller", act: "name another one" },
  "shadowed-scope": {
    means: "another scope of the caller allows all of this one, under the same limits",
    act: "take one of them out",
  },
  "bypassed-scope": {
    means: "another scope of the caller allows all of this one without one of its limits",
    act: "give both the limit, or take one out",
  },
  "two-schemes": { means: "one RSA key is used in two schemes", act: "use two keys" },
  "no-freeze-bit": {
    means: "a note: the scope can be frozen only together with everything",
    act: "give it a `freezeBit`, if it should be",
  },
};

/** States, flags and events of a machine at its verifier. */
export const FLEET_CODES: Complete<EventKind> = {
  enrolled: { means: "no report of it has come yet", act: "is the push running (`ironclaw verifier push`)?" },
  affirming: { means: "its last report is accepted", act: "nothing" },
  warning: { means: "its last report is accepted with a doubt", act: "read the findings" },
  contraindicated: {
    means: "its last report is true and not accepted",
    act: "read the findings: each names the item, expected and got",
  },
  refused: {
    means: "its last report does not verify",
    act: "[reports that do not verify](#reports-that-do-not-verify)",
  },
  silent: { means: "nothing came for the interval", act: "is the push running, and the machine?" },
  rebooted: { means: "a flag: another boot than at the last report", act: "meant: clear the flag" },
  changed: {
    means: "a flag: another image, policy, profile or library than at the last report",
    act: "meant: clear the flag",
  },
  violation: {
    means: "a flag: a library tried what its sandbox denies",
    act: "keep the report, ask the library's maker; clear the flag only after that",
  },
  clone: { means: "a flag: one TPM under two names", act: "retire the wrong one" },
  "rolled-back": {
    means: "a flag: clock, counters, epoch or audit log went back",
    act: "a snapshot was restored: go back to the newer state, or enrol anew. Neither: change the PIN at the HSM",
  },
  "enrolled-again": { means: "the machine was enrolled with another key", act: "was that meant? Who gave the token?" },
  rejected: {
    means: "reports in its name that are not its own",
    act: "its TPM was replaced, or somebody else reports in its name",
  },
  "flags-cleared": { means: "an operator cleared flags", act: "nothing" },
  "continuity-accepted": { means: "an operator accepted a new audit log or state", act: "nothing" },
  "continuity-reset": { means: "the comparison of reports begins anew", act: "nothing" },
  retired: {
    means: "an operator retired the machine",
    act: "change the PIN at the HSM: what is sealed there stays openable on its TPM",
  },
};

/** Exit codes of the spawner, as a service. PID 1 reboots instead. */
export const SPAWNER_EXITS: Meanings = {
  "2": { means: "usage, or sockets that cannot be taken over", act: "compare the command line with SPAWNER.md" },
  "10": { means: "the agent was lost", act: "the log has its end; `agent-lost` in the next launch" },
  "11": { means: "the agent broke the protocol", act: "keep the log, and report it as a fault" },
  "12": { means: "it was asked to end: SIGTERM, or the agent's own wish for a new launch", act: "nothing" },
  "13": { means: "set-up failed", act: "the line before says what" },
};
