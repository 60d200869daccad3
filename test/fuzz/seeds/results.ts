import {
  type AttestationResult,
  type Continuity,
  defaultAppraisalPolicy,
  encodeAttestationResult,
  encodeContinuity,
  encodeEarClaims,
  notProvenFor,
  trustVector,
} from "../../../attest/index.ts";
import { concatBytes, utf8 } from "../../../policy/index.ts";
import { filled, type Seeds } from "./made.ts";

const hash = (byte: string) => byte.repeat(32);
const finding = { tier: "warning", code: "rebooted", item: "quote clockInfo", expected: "1", got: "2" } as const;

const result: AttestationResult = {
  version: 2,
  tier: "warning",
  findings: [finding],
  machine: "vm-1",
  assurance: "provider-ek",
  launch: "serving",
  release: "2026-11",
  policy: { name: "default", sha256: defaultAppraisalPolicy.sha256 },
  evidence: hash("ab"),
  vector: trustVector("provider-ek", true, [finding]),
  pcrs: [
    { pcr: 0, expected: null, got: hash("01") },
    { pcr: 4, expected: hash("02"), got: hash("02") },
  ],
  events: [
    { kind: "library", name: "/usr/lib/libsofthsm2.so", expected: hash("03"), got: hash("03"), agrees: true },
    { kind: "file", name: "/etc/é", expected: hash("04"), got: null, agrees: false },
  ],
  notProven: notProvenFor("provider-ek"),
  at: "2026-11-01T00:00:00.000Z",
};
const refused: AttestationResult = {
  ...result,
  ...{ tier: "contraindicated", findings: [], launch: "refused", release: null, pcrs: [], events: [] },
};

const continuity: Continuity = {
  version: 2,
  ...{ clock: "123456", resetCount: 3, restartCount: 0, bootSeed: "b0".repeat(16) },
  ...{ firmwareVersion: "0000000020191023", epoch: null },
  audit: { seq: 7, hash: hash("05") },
};

/** Nothing signed it: the target only reads. */
function token(made: AttestationResult, nonce: Uint8Array | null): Uint8Array {
  const part = (bytes: Uint8Array) => bytes.toBase64({ alphabet: "base64url", omitPadding: true });
  const header = utf8(JSON.stringify({ alg: "ES256", typ: "JWT", kid: part(filled(32, 7)) }));
  const claims = encodeEarClaims(made, { iat: 1_780_272_000, ttlSeconds: 300, nonce });
  return concatBytes(utf8(`${part(header)}.${part(claims)}.`), utf8(part(filled(64, 9))));
}

export function resultSeeds(): Record<string, Seeds> {
  return {
    "attestation-result": { warning: encodeAttestationResult(result), refused: encodeAttestationResult(refused) },
    continuity: {
      epoch: encodeContinuity({ ...continuity, epoch: "18446744073709551615" }),
      none: encodeContinuity(continuity),
    },
    ear: { warning: token(result, filled(32, 1)), refused: token(refused, null) },
  };
}
