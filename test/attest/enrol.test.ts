import { generateKeyPairSync } from "node:crypto";
import { beforeEach, describe, expect, it } from "vitest";
import { eccCurve, ekProfiles, ekPublic } from "../../attest/ek-profiles.ts";
import type { Endorsement } from "../../attest/endorsement.ts";
import { beginEnrolment, finishEnrolment, type PendingEnrolment } from "../../attest/enrol.ts";
import { encodeTpmPublic, type TpmPublic, tpmAlg, tpmName } from "../../attest/tpm-structures.ts";
import { fromBase64, toHex } from "../../policy/index.ts";

/** A key that no TPM has: no answer to a credential for it is ever right, but by guessing. */
function pointOf(namedCurve: string) {
  const { x = "", y = "" } = generateKeyPairSync("ec", { namedCurve }).publicKey.export({ format: "jwk" });
  return {
    kind: "ecc",
    curve: eccCurve.p256,
    x: Uint8Array.fromBase64(x, { alphabet: "base64url" }),
    y: Uint8Array.fromBase64(y, { alphabet: "base64url" }),
  } as const;
}

const ek = ekPublic(ekProfiles.p256, pointOf("P-256"));
const ekPublicArea = encodeTpmPublic(ek);
const endorsement: Endorsement = {
  ...{ assurance: "hardware-ek", anchor: "root", manufacturer: null, profile: "L-2" },
  ...{ ekPublic: ek, ekPublicArea, ekName: tpmName(ekPublicArea), ekCertificateSha256: new Uint8Array(32) },
};
const ak: TpmPublic = {
  ...pointOf("P-256"),
  ...{ nameAlg: tpmAlg.sha256, attributes: 0x50472, authPolicy: new Uint8Array(), symmetric: null },
  scheme: { scheme: tpmAlg.ecdsa, hash: tpmAlg.sha256 },
};
const akArea = encodeTpmPublic(ak);

let pending: PendingEnrolment;
let secret: Uint8Array;
beforeEach(async () => {
  pending = await beginEnrolment("vm-1", endorsement, akArea);
  secret = Uint8Array.from(pending.secret);
});
const refused = (answer: Uint8Array) =>
  expect(() => finishEnrolment(pending, answer)).toThrow(expect.objectContaining({ code: "ERR_CREDENTIAL" }));

describe("an enrolment in two halves", () => {
  it("I9: the right answer gives the document, of the EK and the AK for which the credential was made", () => {
    expect(finishEnrolment(pending, secret)).toMatchObject({
      ...{ name: "vm-1", ekName: toHex(endorsement.ekName), akName: toHex(tpmName(akArea)), assurance: "hardware-ek" },
    });
  });

  it("I9: one answer counts: a second is refused, though it were right", () => {
    refused(secret.with(31, (secret[31] ?? 0) ^ 1));
    refused(secret);
  });

  it("I9: a right answer is no more right the second time, and neither are zeros", () => {
    finishEnrolment(pending, secret);
    refused(secret);
    refused(new Uint8Array(32));
  });

  it.each([
    ["no bytes", () => new Uint8Array()],
    ["zeros", () => new Uint8Array(32)],
    ["all but the last byte", () => secret.slice(0, 31)],
    ["a byte more", () => Uint8Array.of(...secret, 0)],
    ["the credential itself", () => pending.credential.credentialBlob],
  ])("I9: %s is no answer", (_, answer) => {
    refused(answer());
  });

  it("I4: the secret is 32 fresh bytes, is in nothing that goes out, and is gone after the answer", async () => {
    const other = await beginEnrolment("vm-1", endorsement, akArea);
    expect(pending.secret.length).toBe(32);
    expect(other.secret).not.toEqual(pending.secret);
    expect(JSON.stringify(pending.enrolment)).not.toContain(toHex(secret));
    expect(Buffer.from(pending.credential.credentialBlob).includes(secret)).toBe(false);
    finishEnrolment(pending, secret);
    expect(pending.secret).toEqual(new Uint8Array(32));
  });

  it.each<[string, Partial<TpmPublic>]>([
    ["that is not restricted", { attributes: 0x40472 }],
    ["that could be moved", { attributes: 0x50470 }],
    ["that decrypts", { attributes: 0x70472 }],
    ["without a scheme", { scheme: null }],
    ["that the agent does not make: with dictionary attack protection", { attributes: 0x50072 }],
    ["that the agent does not make: with an administrator's policy", { attributes: 0x504f2 }],
    ["that the agent does not make: with a policy", { authPolicy: new Uint8Array(32) }],
  ])("I9: no credential is made for a key %s", async (_, changes) => {
    const area = encodeTpmPublic({ ...ak, ...changes } as TpmPublic);
    await expect(beginEnrolment("vm-1", endorsement, area)).rejects.toMatchObject({ code: "ERR_ENROLMENT_MALFORMED" });
  });

  it("I10: what is no public area, or no name, is a typed error", async () => {
    for (const area of [new Uint8Array(), fromBase64("AAAA", "area"), akArea.slice(0, -1)])
      await expect(beginEnrolment("vm-1", endorsement, area)).rejects.toMatchObject({
        code: expect.stringMatching(/^ERR_/),
      });
    for (const name of ["", "a/b", "x".repeat(65)])
      await expect(beginEnrolment(name, endorsement, akArea)).rejects.toMatchObject({
        code: "ERR_ENROLMENT_MALFORMED",
      });
  });
});
