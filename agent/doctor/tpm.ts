import { HASH, PROPERTY, type Tpm as Tss } from "node-tpm2-tss";
import {
  AttestError,
  describeEkCertificate,
  type EkCertificate,
  type EndorsementKeyKind,
  ekProfileOfCertificateIndex,
  pcrBanks,
} from "../../attest/index.ts";
import { toHex } from "../../policy/index.ts";
import {
  freezeHex,
  type MachineTpm,
  PERMANENT,
  readAnchor,
  readEpoch,
  readFreeze,
  readLogin,
  STARTUP_CLEAR,
} from "../../seal/index.ts";
import { STATE_CREDENTIAL } from "../launch/tpm-check.ts";
import { type Finding, fail, ok, warn } from "./finding.ts";

/** An EK certificate that ends so soon is a warning. */
const SOON_DAYS = 90;
const DAY = 86_400_000;

/** What the TPM says of itself. Reads alone: no authorisation is used, so nothing is counted anywhere. */
export async function tpmFindings(tpm: MachineTpm, now: Date): Promise<readonly Finding[]> {
  const { tss } = tpm;
  const properties = await tss.properties(PROPERTY.permanent, 32);
  const property = (tag: number) => properties.get(tag) ?? 0;
  return [
    await identity(tss),
    lockout(property),
    hierarchies(property),
    owner(property),
    await records(tss),
    await banks(tss),
    ...(await certificates(tpm, property, now)),
  ];
}

async function identity(tss: Tss): Promise<Finding> {
  const fixed = await tss.properties(0x100, 32);
  const words = (...tags: readonly number[]) => tags.map((tag) => text(fixed.get(tag) ?? 0)).join("");
  const version = fixed.get(PROPERTY.firmwareVersion1) ?? 0;
  const { vendorString1, vendorString2, vendorString3, vendorString4 } = PROPERTY;
  const vendor = words(vendorString1, vendorString2, vendorString3, vendorString4).trim();
  const family = words(0x100);
  const said = `family ${family}, ${words(PROPERTY.manufacturer)} ${vendor}, firmware ${version >>> 16}.${version & 0xffff}`;
  return family === "2.0" ? ok("tpm", said) : fail("tpm", { expected: "family 2.0", got: said });
}

/** Four characters, the most significant byte first. */
function text(value: number): string {
  const bytes = [24, 16, 8, 0].map((shift) => (value >>> shift) & 0xff);
  return String.fromCharCode(...bytes.filter((byte) => byte >= 0x20 && byte < 0x7f));
}

type Property = (tag: number) => number;

function lockout(property: Property): Finding {
  const [count, most] = [property(PROPERTY.lockoutCounter), property(PROPERTY.maxAuthFail)];
  const got = `${count} of ${most} failed tries`;
  if ((property(PROPERTY.permanent) & PERMANENT.inLockout) !== 0)
    return warn("tpm-lockout", { expected: "no lockout", got: `in lockout, ${got}` });
  return count === 0 ? ok("tpm-lockout", got) : warn("tpm-lockout", { expected: "no failed try", got });
}

function hierarchies(property: Property): Finding {
  const [enabled, permanent] = [property(PROPERTY.startupClear), property(PROPERTY.permanent)];
  const off = [
    ...((enabled & STARTUP_CLEAR.storage) === 0 ? ["owner hierarchy off"] : []),
    ...((enabled & STARTUP_CLEAR.endorsement) === 0 ? ["endorsement hierarchy off"] : []),
    ...((permanent & PERMANENT.endorsementAuthSet) === 0 ? [] : ["endorsement authorisation set"]),
  ];
  if (off.length === 0) return ok("tpm-hierarchies", "owner and endorsement on, no endorsement authorisation");
  return fail("tpm-hierarchies", { expected: "both on, no endorsement authorisation", got: off.join(", ") });
}

function owner(property: Property): Finding {
  const permanent = property(PROPERTY.permanent);
  const empty = [
    ...((permanent & PERMANENT.ownerAuthSet) === 0 ? ["owner"] : []),
    ...((permanent & PERMANENT.lockoutAuthSet) === 0 ? ["lockout"] : []),
  ];
  if (empty.length === 0) return ok("tpm-owner", "both set");
  return warn("tpm-owner", { expected: "both set", got: `empty: ${empty.join(", ")}; root can clear this TPM` });
}

async function records(tss: Tss): Promise<Finding> {
  const epoch = await readEpoch(tss);
  const freeze = await readFreeze(tss);
  const there = [
    ["epoch counter", epoch.kind !== "missing"],
    ["log-in records", (await readLogin(tss, STATE_CREDENTIAL)).kind !== "missing"],
    ["audit anchor", (await readAnchor(tss)).kind !== "missing"],
    ["freeze bits", freeze.kind !== "missing"],
  ] as const;
  if (freeze.kind === "foreign") return fail("tpm-records", { expected: "freeze bits of ours", got: freeze.got });
  if (epoch.kind === "present" && epoch.value === null)
    return fail("tpm-records", {
      expected: "an epoch counter with a value",
      got: "another index, or one never incremented",
    });
  const missing = there.flatMap(([name, present]) => (present ? [] : [name]));
  if (missing.length === 0)
    return ok(
      "tpm-records",
      `epoch counter ${epoch.kind === "present" ? epoch.value : ""}, freeze bits ${freeze.kind === "bits" ? freezeHex(freeze.bits) : freeze.kind}`,
    );
  const got = missing.length === there.length ? "none: no launch has been here" : `no ${missing.join(", no ")}`;
  return (missing.length === there.length ? warn : fail)("tpm-records", {
    expected: there.map(([name]) => name).join(", "),
    got,
  });
}

async function banks(tss: Tss): Promise<Finding> {
  const active = (await tss.pcrBanks()).flatMap(({ bank, pcrs }) =>
    pcrs.length > 0 && Object.hasOwn(HASH, bank) ? [bank] : [],
  );
  const missing = pcrBanks.filter((bank) => !active.includes(bank));
  if (missing.length === 0) return ok("pcr-banks", active.join(", "));
  return fail("pcr-banks", { expected: pcrBanks.join(" and "), got: active.join(", ") || "none" });
}

async function certificates(tpm: MachineTpm, property: Property, now: Date): Promise<readonly Finding[]> {
  const found = await tpm.ekCertificates();
  if (found.length === 0) return [fail("ek-certificate", { expected: "one in the TPM", got: "none" })];
  const usable =
    (property(PROPERTY.startupClear) & STARTUP_CLEAR.endorsement) !== 0 &&
    (property(PROPERTY.permanent) & PERMANENT.endorsementAuthSet) === 0;
  const findings: Finding[] = [];
  for (const certificate of found)
    findings.push(
      await certificateFinding(tpm, certificate, usable && (found.length === 1 || isQuick(certificate)), now),
    );
  return findings;
}

/** Of several the quick ones are made: a TPM may search many seconds for the primes of an RSA key. */
function isQuick({ nvIndex }: EkCertificate): boolean {
  return ekProfileOfCertificateIndex(nvIndex)?.kind.startsWith("p") === true;
}

/** @param usable whether the TPM can be asked for the key */
async function certificateFinding(
  tpm: MachineTpm,
  { nvIndex, der }: EkCertificate,
  usable: boolean,
  now: Date,
): Promise<Finding> {
  const { issuer, notBefore, notAfter, profiles, keyProblem } = describeEkCertificate(der);
  const kind = ekProfileOfCertificateIndex(nvIndex)?.kind ?? null;
  const name = `${kind ?? "unknown key"} at 0x${nvIndex.toString(16)}`;
  const [first, last] = [Date.parse(notBefore), Date.parse(notAfter)];
  if (now.getTime() < first)
    return fail("ek-certificate", { expected: `${name}: a clock after ${notBefore}`, got: now.toISOString() });
  if (now.getTime() > last)
    return fail("ek-certificate", { expected: `${name}: a date before ${notAfter}`, got: now.toISOString() });
  if (keyProblem !== null)
    return warn("ek-certificate", { expected: `${name}: a key that credentials are sealed to`, got: keyProblem });
  if (usable && kind !== null) {
    const own = await ownKey(tpm, kind);
    const certified = profiles.map((profile) => profile.ekName);
    if (!certified.includes(own))
      return fail("ek-certificate", {
        ...{
          expected: `${name}: the TPM's own key`,
          got: own === "" ? "one that cannot be used" : "a certificate of another one",
        },
        fix: "the endorsement seed was changed: treat it as a new TPM, after finding out who did that",
      });
  }
  const said = `${name}, by ${issuer}, until ${notAfter}`;
  if (last - now.getTime() < SOON_DAYS * DAY)
    return warn("ek-certificate", { expected: `more than ${SOON_DAYS} days`, got: said });
  return ok("ek-certificate", said);
}

/** Its Name, in hexadecimal; empty for a key that the TPM does not give. */
async function ownKey(tpm: MachineTpm, kind: EndorsementKeyKind): Promise<string> {
  try {
    return toHex((await tpm.endorsementKey(kind)).name);
  } catch (error) {
    if (error instanceof AttestError) return "";
    throw error;
  }
}
