import { extendPcr, hashInBank, type LaunchEvent, launchEventDigests, type Reason, reason } from "../attest/index.ts";
import {
  AGENT_PCR,
  BOOT_PCRS,
  bootPcrValues,
  EXTENDED_PCRS,
  epochLimit,
  equalBytes,
  measureEpochName,
  type Release,
  sealPcrValues,
  sha256,
  toHex,
  utf8,
} from "../policy/index.ts";
import { UNSEAL_FINDINGS, type UnsealFindingCode } from "./advice.ts";
import { EVERYTHING, freezeHex, measureFreezeName } from "./freeze-bits.ts";
import { PERMANENT, STARTUP_CLEAR } from "./ownership.ts";
import { packageDigest, type SealedPackage } from "./package.ts";
import type { LoginRecord } from "./tpm-records.ts";
import type { TpmState } from "./tpm-state.ts";

/** One thing that stands in the way, or that an operator should know. Its `code` is one of `UNSEAL_FINDINGS`. */
export interface UnsealFinding extends Reason {
  readonly code: UnsealFindingCode;
}

/** Whether a finding keeps the credential sealed. */
export function blocks({ code }: Pick<UnsealFinding, "code">): boolean {
  return UNSEAL_FINDINGS[code].blocks;
}

export interface UnsealQuestion {
  readonly state: TpmState;
  readonly rootKeyPem: string;
  readonly sealed: SealedPackage;
  /** Releases whose signatures were verified under that root; those whose dates do not include `now` may be among them. */
  readonly releases: readonly Release[];
  /** Hexadecimal Name of the EK on which this machine's counter was defined, from its store; null when nothing is known. */
  readonly knownEkName: string | null;
  readonly now: Date;
}

/**
 * Would this credential unseal now, and if not, what stands in the way. Pure: it compares Names, values and flags, so it costs no
 * try and no count anywhere, and it tells apart what the TPM's response codes do not. Says nothing about whether the blob itself is
 * sound: see `diagnoseBlob`.
 */
export function diagnoseUnseal(question: UnsealQuestion): readonly UnsealFinding[] {
  return [
    ...parentFindings(question),
    ...counterFindings(question),
    ...freezeFindings(question),
    ...pcrBankFindings(question),
    ...releaseFindings(question),
    ...credentialFindings(question),
    ...lockoutFindings(question),
  ];
}

function finding(code: UnsealFindingCode, item: string, expected: string, got: string): UnsealFinding {
  return { ...reason(code, item, expected, got), code };
}

function parentFindings({ state, sealed }: UnsealQuestion): UnsealFinding[] {
  const findings: UnsealFinding[] = [];
  for (const [bit, item] of [
    [STARTUP_CLEAR.storage, "owner hierarchy"],
    [STARTUP_CLEAR.endorsement, "endorsement hierarchy"],
  ] as const) {
    if ((state.startupClear & bit) === 0) findings.push(finding("hierarchy-disabled", item, "enabled", "disabled"));
  }
  if ((state.permanent & PERMANENT.endorsementAuthSet) !== 0)
    findings.push(finding("endorsement-auth-set", "endorsement authorisation", "empty", "set"));
  if (findings.length > 0) return findings; // the EK cannot be used, so nothing is known about it
  const expected = toHex(sealed.ekName);
  if (state.ek.kind === "failed")
    return [finding("hierarchy-disabled", "endorsement key", expected, `response 0x${state.ek.rc.toString(16)}`)];
  if (equalBytes(state.ek.name, sealed.ekName)) return [];
  const code = state.inOwnerHierarchy
    ? "wrong-hierarchy"
    : state.certifiedEkNames.some((name) => equalBytes(name, sealed.ekName))
      ? "parent-changed"
      : "tpm-replaced";
  return [finding(code, "endorsement key", expected, toHex(state.ek.name))];
}

function counterFindings({ state, rootKeyPem, sealed, knownEkName }: UnsealQuestion): UnsealFinding[] {
  const { epoch, login, hasAnchor, startupClear } = state;
  if ((startupClear & STARTUP_CLEAR.storage) === 0) return []; // their hierarchy is off, so nothing is known about them
  if (epoch.kind === "missing" || login.kind === "missing" || !hasAnchor) {
    const missing =
      epoch.kind === "missing" ? "epoch counter" : login.kind === "missing" ? "login records" : "audit anchor";
    // A clear takes the owner's authorisation away too: with one set, somebody with that authorisation took the index.
    const owned = (state.permanent & PERMANENT.ownerAuthSet) !== 0;
    const code = knownEkName === toHex(sealed.ekName) && !owned ? "tpm-cleared" : "tpm-not-provisioned";
    return [finding(code, missing, "the NV index of this machine", "none")];
  }
  if (equalBytes(epoch.name, measureEpochName(rootKeyPem, { written: false })))
    return [finding("epoch-unwritten", "epoch counter", "a value", "none: never incremented")];
  const [wanted, got] = [toHex(measureEpochName(rootKeyPem)), toHex(epoch.name)];
  if (got !== wanted) return [finding("epoch-foreign", "epoch counter", wanted, got)];
  if (epoch.value === null) return [finding("epoch-foreign", "epoch counter", "no authorisation", "one that is set")];
  return [];
}

/**
 * Bits that are not there are not bits that are clear: without them nothing is unsealed. Where counter or records are missing too, that is
 * what is said: the TPM was cleared, or never set up.
 */
function freezeFindings({ state }: UnsealQuestion): UnsealFinding[] {
  const { freeze, epoch, login, hasAnchor, startupClear } = state;
  if ((startupClear & STARTUP_CLEAR.storage) === 0) return [];
  switch (freeze.kind) {
    case "bits":
      if ((freeze.bits & EVERYTHING) === 0n) return [];
      return [finding("frozen", "freeze bits", "bit 0 clear", freezeHex(freeze.bits))];
    case "foreign":
      return [finding("freeze-foreign", "freeze bits", toHex(measureFreezeName()), freeze.got)];
    case "missing":
      if (epoch.kind === "missing" || login.kind === "missing" || !hasAnchor) return [];
      return [finding("freeze-missing", "freeze bits", "the NV index of this machine", "none")];
    case "unwritten":
      return [finding("freeze-missing", "freeze bits", "a value", "none: defined, and never set")];
  }
}

function pcrBankFindings({ state }: UnsealQuestion): UnsealFinding[] {
  if (state.pcrs === null) return [finding("pcr-bank-inactive", "SHA-256 bank", "active", "not allocated")];
  return EXTENDED_PCRS.filter((index) => state.pcrs?.get(index)?.every((byte) => byte === 0)).map((index) =>
    finding("pcr-never-extended", `PCR ${index} (sha256)`, "a measured boot", "zero"),
  );
}

function releaseFindings(question: UnsealQuestion): readonly UnsealFinding[] {
  if (question.releases.length === 0) return [finding("release-missing", "release", "at least one", "none")];
  // The release that is nearest to unsealing is the one worth explaining.
  const found = question.releases.map((release) => oneReleaseFindings(question, release));
  return found.reduce((best, next) => (next.length < best.length ? next : best));
}

function oneReleaseFindings(question: UnsealQuestion, release: Release): readonly UnsealFinding[] {
  const { state, sealed } = question;
  const findings = [...dateFindings(release, question.now), ...measurementFindings(state, release)];
  if (state.epoch.kind === "present" && state.epoch.value !== null) {
    const { value } = state.epoch;
    const limits = [
      ["release-revoked", `release ${release.name}`, epochLimit(release.epoch)],
      ["release-key-revoked", `release key of ${release.name}`, epochLimit(release.delegation.lastEpoch)],
    ] as const;
    for (const [code, item, limit] of limits) {
      if (value > limit) findings.push(finding(code, item, `epoch counter at most ${limit}`, `${value}`));
    }
  }
  const delegated = release.delegation.credentials.map(({ name }) => name);
  if (!delegated.includes(sealed.name))
    findings.push(finding("credential-not-delegated", sealed.name, `one of ${delegated.join(" ")}`, sealed.name));
  return findings;
}

function dateFindings({ name, notBefore, notAfter }: Release, now: Date): UnsealFinding[] {
  const time = now.getTime();
  if (!(time >= Date.parse(notBefore)))
    return [finding("release-not-yet-valid", `release ${name}`, `from ${notBefore}`, timeOf(now))];
  if (!(time <= Date.parse(notAfter)))
    return [finding("release-expired", `release ${name}`, `until ${notAfter}`, timeOf(now))];
  return [];
}

function timeOf(now: Date): string {
  return Number.isNaN(now.getTime()) ? "no time" : now.toISOString();
}

function measurementFindings({ pcrs }: TpmState, release: Release): UnsealFinding[] {
  if (pcrs === null) return [];
  const boot = bootPcrValues(release);
  const changed = BOOT_PCRS.flatMap((index) => {
    const expected = boot.get(index) ?? new Uint8Array();
    const got = pcrs.get(index) ?? new Uint8Array();
    return equalBytes(expected, got)
      ? []
      : [finding("measurement-changed", `PCR ${index} (sha256)`, toHex(expected), toHex(got))];
  });
  return [...changed, ...agentPcrFindings(pcrs.get(AGENT_PCR) ?? new Uint8Array(), release)];
}

function agentPcrFindings(got: Uint8Array, release: Release): UnsealFinding[] {
  const expected = sealPcrValues(release).get(AGENT_PCR) ?? new Uint8Array();
  if (equalBytes(expected, got)) return [];
  const item = `PCR ${AGENT_PCR} (sha256)`;
  if (got.every((byte) => byte === 0)) return [finding("agent-not-launched", item, toHex(expected), "zero")];
  const code = isCapped(expected, got) ? "agent-pcr-capped" : "measurement-changed";
  return [finding(code, item, toHex(expected), toHex(got))];
}

/** What the spawner extends when the agent is gone. */
const AGENT_LOST = hashInBank("sha256", utf8("ironclaw: agent lost"));

/** The cap right behind the predicted value; with a token's and keys' events between, only the agent's own log tells. */
function isCapped(predicted: Uint8Array, got: Uint8Array): boolean {
  const caps = ["serving", "refused"].map(
    (name): LaunchEvent => ({ kind: "cap", name, sha256: sha256(new Uint8Array()) }),
  );
  const digests = [...caps.map((cap) => launchEventDigests(cap).sha256), AGENT_LOST];
  return digests.some((digest) => equalBytes(extendPcr("sha256", predicted, digest), got));
}

function credentialFindings({ state, sealed, now }: UnsealQuestion): UnsealFinding[] {
  const findings: UnsealFinding[] = [];
  if (sealed.notAfter !== null && !(now.getTime() <= Date.parse(sealed.notAfter)))
    findings.push(finding("credential-expired", sealed.name, `until ${sealed.notAfter}`, timeOf(now)));
  if (state.login.kind === "record") findings.push(...loginFindings(sealed, state.login.record));
  return findings;
}

/**
 * A package is tried only when nothing was tried under its name, when the last try was accepted or an operator allowed another, or
 * when it is newer: a wrong PIN is not tried again, one whose try the power cut off neither, and an older one never (I11).
 */
export function loginFindings(sealed: SealedPackage, record: LoginRecord): UnsealFinding[] {
  const { name, generation } = sealed;
  const digest = packageDigest(sealed);
  if (generation > record.generation) return [];
  if (generation < record.generation)
    return [finding("credential-rolled-back", name, `generation ${record.generation} or later`, `${generation}`)];
  if (digest !== record.package) return [finding("credential-ambiguous", name, `package ${record.package}`, digest)];
  if (record.outcome === "accepted" || record.outcome === "retry-allowed") return [];
  const got = record.outcome === "refused" ? "refused by the token" : "tried, and how it ended is not known";
  return [finding("login-tried", name, "a PIN that was not tried", `generation ${generation}: ${got}`)];
}

function lockoutFindings({ state }: UnsealQuestion): UnsealFinding[] {
  if ((state.permanent & PERMANENT.inLockout) === 0) return [];
  const { counter, maxTries, intervalSeconds } = state.lockout;
  const wait = intervalSeconds * Math.max(1, counter - maxTries + 1);
  return [
    finding(
      "tpm-locked-out",
      "dictionary-attack lockout",
      "not in lockout",
      `${counter} tries, ends in ${wait} s at most`,
    ),
  ];
}
