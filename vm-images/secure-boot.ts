import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { predictPcr7, type SecureBootMeasurements, type UefiVariable } from "../attest/index.ts";
import { concatBytes } from "../policy/index.ts";
import { makeDirectory } from "./make-directory.ts";
import { withScratch } from "./scratch.ts";
import { runTool, SOURCE_DATE_EPOCH } from "./tool.ts";
import { exists } from "./unpack.ts";
import { NON_VOLATILE, type StoredVariable } from "./variable-store.ts";

// Secure Boot with keys of one's own: platform key, key exchange key, and the one that signs images. UEFI Specification 2.10, chapter 32.

/** EFI_GUIDs as they lie in memory. */
const GUID = {
  global: guid("8be4df61-93ca-11d2-aa0d-00e098032b8c"),
  database: guid("d719b2cb-3d3a-4596-a3bc-dad00e67656f"),
  x509: guid("a5c059a1-94e4-4aa7-87b5-ab155c2bf072"),
  enable: guid("f0a30bc7-af08-4556-99c4-001009c93a44"),
  /** SignatureOwner of every entry: this project. */
  owner: guid("1f0c1a00-0000-4000-8000-0000000013c2"),
};

const ROLES = ["PK", "KEK", "db"] as const;
type Role = (typeof ROLES)[number];

export interface SecureBootKeys {
  readonly directory: string;
  /** DER. */
  readonly certificates: Readonly<Record<Role, Uint8Array>>;
}

/**
 * The keys in `directory`, made at the first use: a folder that only its owner reads, outside the tree. They are for trials: who has them
 * can sign any image. Throws ImageError ERR_IMAGE_TOOL when openssl cannot make them.
 */
export async function openSecureBootKeys(directory: string): Promise<SecureBootKeys> {
  await makeDirectory(directory, 0o700);
  const certificateOf = async (role: Role): Promise<Uint8Array> => {
    const path = join(directory, `${role}.der`);
    if (!(await exists(path))) await makeKey(directory, role);
    return new Uint8Array(await readFile(path));
  };
  const [pk, kek, db] = [await certificateOf("PK"), await certificateOf("KEK"), await certificateOf("db")];
  return { directory, certificates: { PK: pk, KEK: kek, db } };
}

async function makeKey(directory: string, role: Role): Promise<void> {
  const at = (ending: string): string => join(directory, `${role}.${ending}`);
  await runTool("openssl", [
    ...[
      "req",
      "-x509",
      "-newkey",
      "rsa:2048",
      "-noenc",
      "-sha256",
      "-days",
      "7300",
      "-subj",
      `/CN=IronClaw trial ${role}`,
    ],
    ...["-keyout", at("key"), "-out", at("pem")],
  ]);
  await runTool("openssl", ["x509", "-in", at("pem"), "-outform", "DER", "-out", at("der")]);
}

/** The same file with a signature of the db key behind its end. With the same key the same bytes: RSA PKCS #1, and a fixed time. */
export function signUki(uki: Uint8Array, { directory }: SecureBootKeys): Promise<Uint8Array> {
  return withScratch("ironclaw-sign-", async (scratch) => {
    const [input, output] = [join(scratch, "uki.efi"), join(scratch, "signed.efi")];
    await writeFile(input, uki);
    await runTool("osslsigncode", [
      ...["sign", "-certs", join(directory, "db.pem"), "-key", join(directory, "db.key"), "-h", "sha256"],
      ...["-time", `${SOURCE_DATE_EPOCH}`, "-in", input, "-out", output],
    ]);
    return new Uint8Array(await readFile(output));
  });
}

/** What the firmware of such a machine finds in its flash. */
export function secureBootVariables({ certificates }: SecureBootKeys): readonly StoredVariable[] {
  const signed = (role: Role): StoredVariable => ({
    ...{ vendor: role === "db" ? GUID.database : GUID.global, name: role, data: signatureList(certificates[role]) },
    attributes: NON_VOLATILE.authenticated,
  });
  const enable = { vendor: GUID.enable, name: "SecureBootEnable", data: Uint8Array.of(1) };
  return [signed("db"), signed("KEK"), signed("PK"), { ...enable, attributes: NON_VOLATILE.bootOnly }];
}

/** PCR 7 of a machine with these keys that boots an image signed with them, in both banks. Nothing is booted. */
export function predictSecureBoot({ certificates }: SecureBootKeys): ReturnType<typeof predictPcr7> {
  const variable = (name: string, data: Uint8Array): UefiVariable => ({
    ...{ name, data },
    vendor: name.startsWith("db") ? GUID.database : GUID.global,
  });
  const measured: SecureBootMeasurements = {
    variables: [
      variable("SecureBoot", Uint8Array.of(1)),
      ...ROLES.map((role) => variable(role, signatureList(certificates[role]))),
      variable("dbx", new Uint8Array()),
    ],
    authority: variable("db", signatureData(certificates.db)),
  };
  return predictPcr7(measured);
}

/** EFI_SIGNATURE_DATA of a certificate. */
function signatureData(certificate: Uint8Array): Uint8Array {
  return concatBytes(GUID.owner, certificate);
}

/** EFI_SIGNATURE_LIST with one certificate: type, size of the list, of its header, of an entry, the entry. */
function signatureList(certificate: Uint8Array): Uint8Array {
  const entry = signatureData(certificate);
  const sizes = new DataView(new ArrayBuffer(12));
  sizes.setUint32(0, 28 + entry.length, true);
  sizes.setUint32(8, entry.length, true);
  return concatBytes(GUID.x509, new Uint8Array(sizes.buffer), entry);
}

/** RFC 9562's text, the first three fields little-endian. */
function guid(text: string): Uint8Array {
  const bytes = Uint8Array.from(Buffer.from(text.replaceAll("-", ""), "hex"));
  return Uint8Array.from([3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15].map((index) => bytes[index] ?? 0));
}
