import {
  type CborKey,
  type CborMap,
  type CborValue,
  decodeCbor,
  encodeCbor,
  MAX_EXCEPTIONS,
  PolicyError,
  SANDBOX_FEATURES,
  sha256,
  uccsTag,
} from "../policy/index.ts";
import {
  type AssertedClaims,
  type Claims,
  evidenceProfile,
  imageVariants,
  type KeyClaim,
  keyPurposes,
  launchStates,
  type MeasuredClaims,
  type ShimClaim,
  shimRoles,
  type TokenClaim,
} from "./claims.ts";
import { type MapReader, mapReader } from "./claims-reader.ts";
import { AttestError } from "./errors.ts";
import { encodeIncident, MAX_INCIDENTS, readIncident } from "./incidents.ts";

const key = {
  nonce: 10,
  ueid: 256,
  dbgstat: 263,
  profile: 265,
  bootseed: 268,
  swname: 270,
  swversion: 271,
} as const;
const measuredKey = -70001;
const assertedKey = -70002;
const selfReportedKey = -70003;
/** In the order of their encoding, in which nothing needs to be sorted. */
const TOKEN_FIELDS = ["name", "label", "model", "serial", "firmware", "manufacturer"] as const;
/** Caps of what a hostile library could make long. */
const cap = {
  reasons: 1024,
  unseal: 64,
  tokens: 4,
  keys: 256,
  attributes: 64,
  modules: 4,
  closure: 4096,
  syscalls: 640,
  probe: 256,
  shims: 16,
  namespaces: 16,
} as const;
const featureNames = SANDBOX_FEATURES.map(({ name }) => name);
const debugEnabled = 0;
const debugDisabledPermanently = 3;

/** Claims as a UCCS: tag 601, canonical CBOR (EVIDENCE.md section 3). */
export function encodeClaims(claims: Claims): Uint8Array {
  const value = new Map<CborKey, CborValue>([
    [key.nonce, claims.nonce],
    [key.ueid, claims.ueid],
    [key.dbgstat, claims.debugEnabled ? debugEnabled : debugDisabledPermanently],
    [key.profile, evidenceProfile],
    [key.bootseed, claims.bootSeed],
    [key.swname, claims.software.name],
    [key.swversion, [claims.software.version]],
    [measuredKey, record({ ...claims.measured })],
    [assertedKey, assertedMap(claims.asserted)],
    [selfReportedKey, record({ probe: claims.selfReported.probe })],
  ]);
  return encodeCbor({ tag: uccsTag, value });
}

function assertedMap(asserted: AssertedClaims): CborMap {
  return record({
    machine: asserted.machine,
    image: record(asserted.image),
    reasons: asserted.reasons.map((reason) => record({ ...reason })),
    unseal: asserted.unseal.map((answer) => record({ ...answer })),
    tokens: asserted.tokens.map((token) => record({ ...token })),
    keys: asserted.keys.map(keyMap),
    "probe-witnessed": asserted.probeWitnessed,
    violations: asserted.violations,
    audit: record(asserted.audit),
    epoch: asserted.epoch,
    shims: asserted.shims.map(shimMap),
    lacks: asserted.lacks,
    exceptions: asserted.exceptions,
    incidents: asserted.incidents.map(encodeIncident),
  });
}

function shimMap({ token, id, role, landlock, process }: ShimClaim): CborMap {
  const seen =
    process === null
      ? null
      : record({
          uid: process.uid,
          "seccomp-filters": process.seccompFilters,
          "inherited-filters": process.inheritedFilters,
          capabilities: process.capabilities,
          namespaces: process.namespaces,
        });
  return record({ token, id, role, landlock, process: seen });
}

function keyMap(claim: KeyClaim): CborMap {
  const { name, token, spki, does } = claim;
  return record({ name, token, spki, does, attributes: record(claim.attributes) });
}

function record(fields: Readonly<Record<string, CborValue>>): CborMap {
  return new Map(Object.entries(fields));
}

/** Digest of a `token` event: SHA-256 of the canonical CBOR of the claim. */
export function measureToken(token: TokenClaim): Uint8Array {
  return sha256(encodeCbor(record({ ...token })));
}

/** Digest of a `key` event: SHA-256 of the canonical CBOR of {token, spki, attributes}. */
export function measureKey(claim: Pick<KeyClaim, "token" | "spki" | "attributes">): Uint8Array {
  return sha256(encodeCbor(record({ spki: claim.spki, token: claim.token, attributes: record(claim.attributes) })));
}

/**
 * Reads a claims set. Every claim must be there and no other. Does not establish who made it: the quote's extraData
 * does, through `verifyEvidence`.
 * @throws AttestError `ERR_CLAIMS_MALFORMED`
 */
export function parseClaims(bytes: Uint8Array): Claims {
  const top = mapReader(decodeUccs(bytes), "claims");
  top.exactly(key.profile, evidenceProfile);
  const claims: Claims = {
    nonce: top.bytes(key.nonce, 32),
    ueid: top.bytes(key.ueid, 33),
    bootSeed: top.bytes(key.bootseed, 16),
    software: { name: top.text(key.swname), version: parseVersion(top) },
    debugEnabled: parseDebugStatus(top),
    measured: parseMeasured(top.map(measuredKey)),
    asserted: parseAsserted(top.map(assertedKey)),
    selfReported: parseSelfReported(top.map(selfReportedKey)),
  };
  top.end();
  return claims;
}

function decodeUccs(bytes: Uint8Array): CborValue {
  let value: CborValue;
  try {
    value = decodeCbor(bytes, {
      bytes: 256 << 10,
      string: 4096,
      items: 20_000,
      depth: 8,
    });
  } catch (error) {
    if (!(error instanceof PolicyError)) throw error;
    throw new AttestError("ERR_CLAIMS_MALFORMED", `claims: ${error.message}`, {
      cause: error,
    });
  }
  if (typeof value === "object" && value !== null && "tag" in value) return value.value;
  throw new AttestError("ERR_CLAIMS_MALFORMED", "claims", {
    expected: `tag ${uccsTag}`,
    got: "no tag",
  });
}

function parseVersion(top: MapReader): string {
  const [version, ...more] = top.array(key.swversion, 1).map((item) => item.asText());
  if (version === undefined || more.length > 0) throw top.malformed(key.swversion, "one version");
  return version;
}

function parseDebugStatus(top: MapReader): boolean {
  const status = top.count(key.dbgstat);
  if (status === debugEnabled) return true;
  if (status === debugDisabledPermanently) return false;
  throw top.malformed(key.dbgstat, `${debugEnabled} or ${debugDisabledPermanently}`, `${status}`);
}

function parseMeasured(map: MapReader): MeasuredClaims {
  const measured = {
    launch: map.oneOf("launch", launchStates),
    policy: map.bytesOrNull("policy", 32),
    profiles: map.entries("profiles", cap.modules, (value) => value.asBytes(32)),
    libraries: map.entries("libraries", cap.modules, (value) => value.asBytes(32)),
    closure: map.entries("closure", cap.closure, (value) => value.asBytes(32)),
  };
  map.end();
  return measured;
}

function parseAsserted(map: MapReader): AssertedClaims {
  const image = map.map("image");
  const audit = map.map("audit");
  const asserted: AssertedClaims = {
    machine: map.text("machine"),
    image: {
      id: image.text("id"),
      variant: image.oneOf("variant", imageVariants),
    },
    reasons: map.array("reasons", cap.reasons).map((item) => texts(item.asMap(), ["code", "item", "expected", "got"])),
    unseal: map.array("unseal", cap.unseal).map((item) => texts(item.asMap(), ["command", "rc", "text"])),
    tokens: map.array("tokens", cap.tokens).map((item) => texts(item.asMap(), TOKEN_FIELDS)),
    keys: map.array("keys", cap.keys).map((item) => parseKey(item.asMap())),
    probeWitnessed: map.entries("probe-witnessed", cap.syscalls, (value) => value.asCount()),
    violations: map.entries("violations", cap.syscalls, (value) => value.asCount()),
    audit: { seq: audit.count("seq"), hash: audit.bytes("hash", 32) },
    epoch: map.wideCountOrNull("epoch"),
    shims: map.array("shims", cap.shims).map((item) => parseShim(item.asMap())),
    lacks: map.array("lacks", SANDBOX_FEATURES.length).map((item) => item.asOneOf(featureNames)),
    exceptions: map.array("exceptions", MAX_EXCEPTIONS).map((item) => item.asText()),
    incidents: map.array("incidents", MAX_INCIDENTS).map((item) => readIncident(item.asMap())),
  };
  for (const reader of [image, audit, map]) reader.end();
  if (!asserted.tokens.every(({ name }, index) => index === 0 || (asserted.tokens[index - 1]?.name ?? "") < name))
    throw map.malformed("tokens", "names in ascending order");
  if (!asserted.shims.every(({ id }, index) => index === 0 || (asserted.shims[index - 1]?.id ?? 0) < id))
    throw map.malformed("shims", "ids in ascending order");
  return asserted;
}

function parseShim(map: MapReader): ShimClaim {
  const claim = {
    token: map.text("token"),
    id: map.count("id"),
    role: map.oneOf("role", shimRoles),
    landlock: map.count("landlock"),
    process: map.mapOrNull("process", parseProcess),
  };
  map.end();
  return claim;
}

function parseProcess(map: MapReader): ShimClaim["process"] {
  const process = {
    uid: map.count("uid"),
    seccompFilters: map.count("seccomp-filters"),
    inheritedFilters: map.count("inherited-filters"),
    capabilities: map.text("capabilities"),
    namespaces: map.array("namespaces", cap.namespaces).map((item) => item.asText()),
  };
  map.end();
  return process;
}

function parseKey(map: MapReader): KeyClaim {
  const spki = map.text("spki");
  if (!/^[0-9a-f]{64}$/.test(spki)) throw map.malformed("spki", "64 lower-case hexadecimal digits");
  const claim = {
    name: map.text("name"),
    token: map.text("token"),
    spki,
    does: map.oneOf("does", keyPurposes),
    attributes: Object.fromEntries(map.entries("attributes", cap.attributes, (value) => value.asBoolean())),
  };
  map.end();
  return claim;
}

function parseSelfReported(map: MapReader): Claims["selfReported"] {
  const probe = map.entries("probe", cap.probe, (value) => value.asCount());
  map.end();
  return { probe };
}

function texts<Name extends string>(map: MapReader, names: readonly Name[]): Record<Name, string> {
  const fields = Object.fromEntries(names.map((name) => [name, map.text(name)]));
  map.end();
  return fields as Record<Name, string>; // every name was read just above
}
