import {
  AGENT_PCR,
  type Anchors,
  ByteWriter,
  concatBytes,
  type Delegation,
  measureObjectPolicy,
  type Release,
  toBase64,
  toHex,
  utf8,
} from "../../../policy/index.ts";
import { encodeSealedPublic } from "../../../seal/import-blob.ts";
import type { SealedPackage } from "../../../seal/package.ts";
import { unsealRequest } from "../../../seal/unseal.ts";
import { operatorKeyPem, releaseKeyPem, rootKeyPem } from "../keys.ts";

/** What a target starts from, by name. */
export type Seeds = Readonly<Record<string, Uint8Array>>;

export const filled = (length: number, byte: number) => new Uint8Array(length).fill(byte);
export const json = (value: unknown) => utf8(JSON.stringify(value));

// Versions of formats change: what belongs to the release and to the sealed package stands in the next functions only.

export function madeRelease(): Release {
  const pcrs = (size: number) =>
    Object.fromEntries([4, 9, 11, 12, AGENT_PCR].map((pcr) => [`${pcr}`, toHex(filled(size, pcr))]));
  return {
    version: 2,
    name: "seed",
    image: { id: "ab".repeat(32), variant: "release" },
    epoch: 3,
    notBefore: "2027-01-01T00:00:00Z",
    notAfter: "2027-12-31T23:59:59Z",
    agentPcr: AGENT_PCR,
    pcrs: { sha256: pcrs(32), sha384: pcrs(48) },
    events: [{ kind: "config", name: "/etc/ironclaw/agent.json", sha256: "cd".repeat(32) }],
    unseal: toBase64(filled(64, 1)),
    raise: null,
    releaseKey: releaseKeyPem,
    delegation: madeDelegation(),
  };
}

export function madeDelegation(): Delegation {
  const signature = toBase64(filled(64, 2));
  const credentials = ["hsm-pin", "volume-key"].map((name) => ({ name, signature }));
  return { lastEpoch: 7, credentials, first: signature, raise: signature };
}

export function sealedPackages(): Readonly<Record<"rsa" | "p384", SealedPackage>> {
  const objectPublic = (name: string) => encodeSealedPublic(measureObjectPolicy(rootKeyPem, name), filled(32, 7));
  const common = { version: 2, generation: 2, nonce: filled(12, 3), ciphertext: filled(64 + 16, 4) } as const;
  const pin = { name: "hsm-pin", kind: "pin", notAfter: null, tokenSerial: "0123456789abcdef" } as const;
  const volume = {
    name: "volume-key",
    kind: "volume-key",
    notAfter: "2027-12-31T23:59:59Z",
    tokenSerial: null,
  } as const;
  return {
    rsa: {
      ...common,
      ...pin,
      ekName: concatBytes(Uint8Array.of(0, 0x0b), filled(32, 5)),
      objectPublic: objectPublic(pin.name),
      duplicate: filled(108, 8),
      encryptedSeed: filled(256, 9),
    },
    p384: {
      ...common,
      ...volume,
      ekName: concatBytes(Uint8Array.of(0, 0x0c), filled(48, 5)),
      objectPublic: objectPublic(volume.name),
      duplicate: filled(124, 8),
      encryptedSeed: new ByteWriter().sized16(filled(48, 1)).sized16(filled(48, 2)).finish(),
    },
  };
}

export function unsealerRequests(): Seeds {
  const anchors: Anchors = { version: 1, releaseRoot: rootKeyPem, operator: operatorKeyPem };
  const common = { imported: filled(140, 6), release: madeRelease(), anchors };
  const { rsa, p384 } = sealedPackages();
  return {
    rsa: unsealRequest({ ...common, sealed: rsa }),
    p384: unsealRequest({ ...common, sealed: p384, sinks: 16 }),
  };
}
