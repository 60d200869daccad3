import { execFile } from "node:child_process";
import { createPublicKey, generateKeyPairSync, type KeyObject } from "node:crypto";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { endorsementKeyKind } from "../../agent/report.ts";
import {
  type AttestationKey,
  type Endorsement,
  type EndorsementKeyKind,
  ekProfiles,
  parseTpmPublic,
  type TpmPublic,
  type TrustAnchor,
  verifyEndorsement,
} from "../../attest/index.ts";
import { concatBytes, toBase64, toHex } from "../../policy/index.ts";
import { type MachineTpm, openTpm } from "../../seal/tpm.ts";
import { claimedEndorsement, enrol } from "../../vm-images/enrol.ts";
import {
  authority,
  commonName,
  ekExtensions,
  keyUsage,
  signingWith,
  writeCertificate,
} from "../support/certificate-writer.ts";
import { type SoftwareTpm, startSwtpm } from "../support/swtpm.ts";
import { toPem } from "../support/vendor-chains.ts";

const run = promisify(execFile);
const at = new Date("2030-01-01T00:00:00Z");
const kinds = Object.keys(ekProfiles) as EndorsementKeyKind[];
const ca = generateKeyPairSync("ec", { namedCurve: "P-384" });
const anchor: TrustAnchor = {
  name: "test authority",
  pem: toPem(
    writeCertificate({
      ...{ subject: commonName("root"), key: ca.publicKey, signing: signingWith(ca.privateKey) },
      extensions: [authority(), keyUsage(0x04)],
    }),
  ),
  assurance: "hardware-ek",
  requireEkPurpose: true,
  manufacturers: ["id:49465800"],
};

const base64url = (bytes: Uint8Array) => Buffer.from(bytes).toString("base64url");
function keyOf(area: TpmPublic): KeyObject {
  const jwk =
    area.kind === "rsa"
      ? { kty: "RSA", n: base64url(area.modulus), e: "AQAB" }
      : { kty: "EC", crv: area.curve === 3 ? "P-256" : "P-384", x: base64url(area.x), y: base64url(area.y) };
  return createPublicKey({ key: jwk, format: "jwk" });
}

/** What a maker certifies: the public key, and nothing of the template. */
const certify = (area: TpmPublic) =>
  writeCertificate({ key: keyOf(area), extensions: ekExtensions, signing: signingWith(ca.privateKey) });
const endorse = (der: Uint8Array): Endorsement => verifyEndorsement([der], [anchor], at);

let swtpm: SoftwareTpm;
let tpm: MachineTpm;
let ak: AttestationKey;
beforeAll(async () => {
  swtpm = await startSwtpm({ endorsement: "none" });
  tpm = await openTpm({ tcti: swtpm.tcti });
  ak = await tpm.createAttestationKey();
});
afterAll(async () => {
  await tpm.close();
  await swtpm.stop();
});

/** A machine's control port: what it says of its EK, and the EK that it really uses. */
const machine = (kind: EndorsementKeyKind, said: Readonly<Record<string, unknown>> = {}) => ({
  endorsement: async () => ({ ekProfile: ekProfiles[kind].name, akPublic: toBase64(ak.publicArea), ...said }),
  activate: (blob: Uint8Array, secret: Uint8Array) => tpm.activateCredential(ak, blob, secret, kind),
});

describe.each(kinds)("a machine whose EK is a %s", (kind) => {
  test("I9: it is enrolled under the Name that its TPM has", async () => {
    const { publicArea, name } = await tpm.endorsementKey(kind);
    const enrolment = await enrol("vm-1", endorse(certify(parseTpmPublic(publicArea))), machine(kind));
    expect(enrolment).toMatchObject({ ekName: toHex(name), akName: toHex(ak.name), assurance: "hardware-ek" });
  });

  test("I9: a wrong claim gives a Name that no TPM has, where it is not refused: the certified key is proved all the same", async () => {
    const { publicArea, name } = await tpm.endorsementKey(kind);
    const endorsement = endorse(certify(parseTpmPublic(publicArea)));
    for (const other of kinds.filter((candidate) => candidate !== kind)) {
      const claimed = machine(kind, { ekProfile: ekProfiles[other].name });
      if (ekProfiles[other].key !== ekProfiles[kind].key) {
        await expect(enrol("vm-1", endorsement, claimed)).rejects.toThrow(/ek profile: expected/);
        continue;
      }
      const enrolment = await enrol("vm-1", endorsement, claimed);
      expect(enrolment.ekName).not.toBe(toHex(name));
      expect(enrolment.ekCertificateSha256).toBe(toHex(endorsement.ekCertificateSha256));
    }
  });
});

describe("an enrolment", () => {
  test("I9: another TPM's certificate is not this machine's, whatever it claims", async () => {
    await using other = await startSwtpm({ endorsement: "none" });
    await using theirs = await openTpm({ tcti: other.tcti });
    for (const kind of ["p256", "rsa2048"] as const) {
      const endorsement = endorse(certify(parseTpmPublic((await theirs.endorsementKey(kind)).publicArea)));
      await expect(enrol("vm-1", endorsement, machine(kind))).rejects.toMatchObject({ code: "ERR_TPM" });
    }
  });

  test("I9: a machine that states no template, or an unknown one, is not enrolled", async () => {
    const endorsement = endorse(certify(parseTpmPublic((await tpm.endorsementKey("p256")).publicArea)));
    for (const ekProfile of [undefined, "L-3", "l-2", 2, null])
      await expect(enrol("vm-1", endorsement, machine("p256", { ekProfile }))).rejects.toThrow(/ekProfile/);
    await expect(claimedEndorsement(endorsement, machine("p256-high"))).resolves.toMatchObject({ profile: "H-2" });
  });

  test("I9: the certificate of a P-256 EK is found in NV, padding and all, and decides which EK the agent uses", async () => {
    await using made = await startSwtpm({ endorsement: "none" });
    const index = "0x01c0000a";
    const first = await openTpm({ tcti: made.tcti });
    const der = certify(parseTpmPublic((await first.endorsementKey("p256")).publicArea));
    await first.close();
    const file = join(made.directory, "ek.der");
    await writeFile(file, concatBytes(der, new Uint8Array(300).fill(0xff)));
    const attributes = "ownerread|ownerwrite|authread|authwrite|no_da";
    await run("tpm2_nvdefine", ["-T", made.tcti, "-C", "o", "-s", `${der.length + 300}`, "-a", attributes, index]);
    await run("tpm2_nvwrite", ["-T", made.tcti, "-C", "o", "-i", file, index]);
    await using again = await openTpm({ tcti: made.tcti });
    const certificates = await again.ekCertificates();
    expect(certificates).toEqual([{ nvIndex: 0x01c0000a, der }]);
    const kind = endorsementKeyKind(undefined, certificates);
    expect(kind).toBe("p256");
    expect(toHex(endorse(der).ekName)).toBe(toHex((await again.endorsementKey(kind)).name));
  });
});
