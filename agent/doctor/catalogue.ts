import { WEAKER_GUARANTEES, type WeakerGuarantee } from "../../policy/index.ts";

interface Entry {
  /** What is looked at, in a few words. */
  readonly what: string;
  readonly fix: string;
}

const OWN = {
  agent: {
    what: "the agent",
    fix: "`ironclaw status` says why; each code is in agent/docs/operator-guide.md",
  },
  tokens: {
    what: "tokens and their shims",
    fix: "agent/docs/run-book.md: a spare comes back with the next launch",
  },
  frozen: { what: "what is frozen", fix: "`ironclaw order unfreeze`, once it is known why somebody froze it" },
  hsm: {
    what: "the HSM, through its library",
    fix: "look at it with the vendor's own tool; a PIN that is about to lock is tried by nobody but a person",
  },
  tpm: { what: "the TPM", fix: "give the machine a TPM 2.0, and the agent access to its resource manager" },
  "tpm-lockout": {
    what: "dictionary-attack lockout",
    fix: "find out who guesses at this TPM; `ironclaw tpm unlock` with the escrow file ends a lockout",
  },
  "tpm-hierarchies": {
    what: "hierarchies",
    fix: "switch them on in the firmware's set-up; the endorsement authorisation stays empty",
  },
  "tpm-owner": {
    what: "owner and lockout authorisation",
    fix: "`ironclaw enrol --escrow FILE` sets both once the machine has served",
  },
  "tpm-records": {
    what: "epoch counter, log-in records, audit anchor, freeze bits",
    fix: "the first launch makes them; on a TPM with an owner `ironclaw tpm provision` does",
  },
  "ek-certificate": {
    what: "certificate of the endorsement key",
    fix: "ask the TPM's maker for it: without one nothing vouches for this TPM, and nothing can be sealed to it offline",
  },
  "pcr-banks": { what: "PCR banks", fix: "activate SHA-256 and SHA-384 in the firmware's set-up" },
  "agent-pcr": {
    what: "who extends the agent PCR",
    fix: "find what extends PCR 13 (agent-pcr-others names what is known) and switch it off; then reboot",
  },
  "agent-pcr-others": {
    what: "whatever else may extend the agent PCR",
    fix: "switch it off, or keep it from the TPM: nothing but the agent extends PCR 13",
  },
  "event-log": {
    what: "the firmware's event log",
    fix: "without a log that replays, no report verifies: mount securityfs, mask what extends these PCRs later (systemd-pcrphase), and have GRUB start a unified kernel image (`chainloader`): with Secure Boot off it starts a kernel and an initrd without a log",
  },
  "seccomp-notify": {
    what: "seccomp user notification",
    fix: "a kernel with CONFIG_SECCOMP_FILTER, Linux 5.6 or newer",
  },
  landlock: {
    what: "Landlock",
    fix: "a newer kernel with landlock in its lsm= list; what the policy does without is in sandbox.lacks",
  },
  pidfd: { what: "process descriptors", fix: "Linux 6.5 or newer: before it callers are told apart by start time" },
  namespaces: { what: "namespaces", fix: "a kernel with user, pid, net, mnt, ipc, uts and cgroup namespaces" },
  "io-uring": { what: "io_uring", fix: "set kernel.io_uring_disabled=2: the sandbox denies it in any case" },
  clock: { what: "the clock", fix: "set it: dates of releases, scopes and credentials are judged by it" },
  disk: {
    what: "room on the disks",
    fix: "make room: below its reserve the audit log takes no records, and nothing is signed",
  },
  configuration: { what: "the agent's configuration", fix: "correct the file; agent/README.md has its fields" },
  cabinet: { what: "the cabinet", fix: "`ironclaw cabinet list` and `cabinet put`; a damaged document is put again" },
  policy: { what: "the policy", fix: "`ironclaw policy check` shows the place; then release the corrected policy" },
  "policy-review": { what: "the policy's review", fix: "review it, set a new reviewBy, and release it" },
  release: { what: "releases", fix: "sign a release for what runs here, with dates that include today" },
  "release-epoch": { what: "epoch of the releases", fix: "sign a release of the epoch that the counter has reached" },
  "trust-root": {
    what: "trust root",
    fix: "delegate to a release key for later epochs (`ironclaw keys delegate`), before the last one is used up",
  },
  sealed: { what: "sealed credentials", fix: "`ironclaw unseal --check` has all of it" },
  permissions: {
    what: "owners and modes of files and sockets",
    fix: "set them as the package does: agent/doctor/README.md has the table",
  },
  host: { what: "what the host gives the machine", fix: "take it out of the machine's configuration" },
  "too-many": { what: "findings", fix: "settle the first ones, then look again" },
} as const satisfies Readonly<Record<string, Entry>>;

export type FindingId = keyof typeof OWN | WeakerGuarantee;

/** Every id, what it is about and what to do; README.md explains when each is ok, warn or fail. */
export const CATALOGUE: Readonly<Record<FindingId, Entry>> = {
  ...OWN,
  ...(Object.fromEntries(WEAKER_GUARANTEES.map(({ name, loss, fix }) => [name, { what: loss, fix }])) as Record<
    WeakerGuarantee,
    Entry
  >), // an entry for each name of the list
};
