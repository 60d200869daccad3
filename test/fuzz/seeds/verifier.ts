import { defaultConfig, encodeVerifierConfig, type VerifierConfig } from "../../../attest/service/config.ts";
import { toBase64 } from "../../../policy/index.ts";
import { filled, json, type Seeds } from "./made.ts";

export function verifierSeeds(): Record<string, Seeds> {
  const everything: VerifierConfig = {
    ...defaultConfig,
    listen: { unix: "verifier.sock" },
    tls: { certificate: "tls.pem", key: "tls.key", clientCa: "people.pem" },
    roles: [
      { name: "a", role: "viewer", tokenSha256: "ab".repeat(32) },
      { name: "b", role: "operator", certificateSha256: "cd".repeat(32) },
      { name: "c", role: "viewer", commonName: "carol" },
    ],
    endorsementAnchors: "endorsement.json",
    releaseAnchors: "anchors.json",
  };
  const base64 = (length: number) => toBase64(filled(length, 0x41));
  return {
    "verifier-config": { default: encodeVerifierConfig(defaultConfig), everything: encodeVerifierConfig(everything) },
    "verifier-request": {
      token: json({ name: "vm-1", ttlSeconds: 3600 }),
      begin: json({
        ...{ token: "t".repeat(43), name: "vm-1", ekCertificates: [base64(60), base64(61)] },
        ...{ ekProfile: "H-3", akPublic: base64(90) },
      }),
      finish: json({ secret: base64(32) }),
      challenge: json({ machine: "vm-1" }),
      continuity: json({ accept: "17" }),
      reset: json({ accept: "reset" }),
      flags: json({ clear: ["clone", "rolled-back"] }),
    },
  };
}
