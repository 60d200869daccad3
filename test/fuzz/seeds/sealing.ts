import { encodeCounters } from "../../../agent/counter-mirror.ts";
import { foldBootExtends } from "../../../attest/index.ts";
import {
  concatBytes,
  encodeAnchors,
  encodeDelegation,
  encodeDerSignature,
  encodeEnvelope,
  encodeRelease,
  keyIdOf,
  RELEASE_TYPE,
  toBase64,
  toHex,
  utf8,
} from "../../../policy/index.ts";
import { encodeLostRecord } from "../../../seal/lost-record.ts";
import { encodeOrder } from "../../../seal/order.ts";
import { encodeEscrow } from "../../../seal/ownership.ts";
import { encodeSealedPackage } from "../../../seal/package.ts";
import { EMPTY_STORE, encodeSlot } from "../../../seal/store.ts";
import { encodeAnchor, encodeLoginRecord } from "../../../seal/tpm-records.ts";
import { operatorKeyPem, releaseKeyPem, rootKeyPem } from "../keys.ts";
import { filled, json, madeDelegation, madeRelease, type Seeds, sealedPackages, unsealerRequests } from "./made.ts";

/** What the store on the state disk, the TPM's NV and the operator's escrow hold. */
function storedSeeds(): Record<string, Seeds> {
  const ekName = toHex(concatBytes(Uint8Array.of(0, 0x0b), filled(32, 5)));
  const entry = {
    name: "hsm-pin",
    generation: 2,
    state: "served",
    package: utf8("{}"),
    imported: filled(100, 1),
  } as const;
  const login = { name: "hsm-pin", outcome: "accepted", generation: 2, tries: 3n, package: "ab".repeat(32) } as const;
  return {
    "store-slot": {
      empty: encodeSlot(1n, EMPTY_STORE),
      one: encodeSlot(7n, { ekName, entries: [entry] }),
    },
    "lost-record": {
      lost: encodeLostRecord({ cause: "lost", reason: "the agent ended (wait status 0x9)" }),
      breach: encodeLostRecord({ cause: "breach", reason: "the agent broke the protocol" }),
    },
    "login-record": { accepted: encodeLoginRecord(login) },
    "tpm-anchor": {
      set: encodeAnchor({ volumeId: filled(16, 1), seq: 12, hash: "cd".repeat(32) }),
      unset: filled(64, 0),
    },
    order: {
      retry: encodeOrder({ version: 1, order: "retry-login", ekName, name: "hsm-pin", record: "01".repeat(64) }),
      volume: encodeOrder({ version: 1, order: "new-volume", ekName, anchor: "02".repeat(64) }),
      provision: encodeOrder({ version: 1, order: "provision", ekName, boot: "03".repeat(32) }),
      unfreeze: encodeOrder({
        ...{ version: 1, order: "unfreeze", ekName, boot: "03".repeat(32) },
        ...{ id: "04".repeat(16), bits: "8000000000000003", keep: "8000000000000000" },
      }),
    },
    "tpm-counters": { some: encodeCounters({ epoch: 33n, resetCount: 7, restartCount: 0 }) },
    prediction: { boot: madePrediction() },
    escrow: { plain: encodeEscrow({ ekName, secret: concatBytes(utf8("IRONOWN1"), filled(24, 1)) }) },
  };
}

function madePrediction(): Uint8Array {
  const boot = ([4, 9, 11] as const).map((pcr) => ({ pcr, sha256: "ab".repeat(32), sha384: "cd".repeat(48) }));
  const events = [{ kind: "config", name: "/etc/ironclaw/agent.json", sha256: "ef".repeat(32) }];
  return json({ image: { id: "ab".repeat(32), variant: "demo" }, pcrs: foldBootExtends(boot), boot, events });
}

export function releaseSeeds(): Record<string, Seeds> {
  const release = encodeRelease(madeRelease());
  const envelope = (payload: Uint8Array, payloadType: string, sig: Uint8Array) =>
    encodeEnvelope({ payloadType, payload, signature: { keyid: keyIdOf(releaseKeyPem), sig } });
  const { rsa, p384 } = sealedPackages();
  return {
    release: { plain: release, raise: encodeRelease({ ...madeRelease(), raise: toBase64(filled(256, 3)) }) },
    delegation: { plain: encodeDelegation({ version: 2, releaseKey: releaseKeyPem, delegation: madeDelegation() }) },
    ...storedSeeds(),
    "signed-release": { plain: envelope(release, RELEASE_TYPE, filled(64, 3)) },
    envelope: {
      small: envelope(utf8("{}"), "application/json", filled(64, 3)),
      rsa: envelope(utf8("payload"), "text/plain", filled(256, 4)),
    },
    "sealed-package": { rsa: encodeSealedPackage(rsa), p384: encodeSealedPackage(p384) },
    anchors: { plain: encodeAnchors({ version: 1, releaseRoot: rootKeyPem, operator: operatorKeyPem }) },
    "key-pem": { p256: utf8(rootKeyPem), rsa: utf8(operatorKeyPem) },
    "der-signature": {
      plain: encodeDerSignature(filled(64, 1)),
      high: encodeDerSignature(filled(64, 0xff)),
      short: encodeDerSignature(concatBytes(filled(63, 0), filled(1, 1))),
    },
    "unsealer-request": unsealerRequests(),
  };
}
