import { execFileSync } from "node:child_process";
import { sign } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { concatBytes, fromHex, toHex } from "../../policy/index.ts";

/** X.509v3 extensions in the words of openssl's configuration. */
export const EXTENSIONS = {
  authority: "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign",
  lastAuthority: "basicConstraints=critical,CA:TRUE,pathlen:0\nkeyUsage=critical,keyCertSign",
  ek: "basicConstraints=critical,CA:FALSE\nkeyUsage=critical,keyEncipherment\nextendedKeyUsage=2.23.133.8.1",
} as const;

export interface MadeCertificate {
  readonly pem: string;
  readonly der: Uint8Array;
  readonly keyPem: string;
}

export interface CertificateOptions {
  readonly subject: string;
  readonly extensions: string;
  /** `null`: signs itself. */
  readonly issuer: MadeCertificate | null;
  /** As `openssl x509` takes it. */
  readonly digest?: "sha256" | "sha1";
  readonly days?: number;
}

/** A certificate for a new RSA-2048 key, made by openssl and not by the code under test. */
export function makeCertificate({
  subject,
  extensions,
  issuer,
  digest = "sha256",
  days = 30,
}: CertificateOptions): MadeCertificate {
  const directory = mkdtempSync(join(tmpdir(), "certificate-"));
  const at = (name: string) => join(directory, name);
  const openssl = (...args: readonly string[]) => execFileSync("openssl", args, { stdio: "pipe" });
  try {
    openssl("req", "-new", "-newkey", "rsa:2048", "-nodes", "-keyout", at("key"), "-subj", subject, "-out", at("csr"));
    writeFileSync(at("extensions"), extensions);
    if (issuer !== null) {
      writeFileSync(at("ca"), issuer.pem);
      writeFileSync(at("ca-key"), issuer.keyPem);
    }
    const signer = issuer === null ? ["-signkey", at("key")] : ["-CA", at("ca"), "-CAkey", at("ca-key")];
    const common = ["-req", "-in", at("csr"), "-extfile", at("extensions"), "-set_serial", "7", "-days", `${days}`];
    openssl("x509", ...common, ...signer, `-${digest}`, "-out", at("pem"));
    const der = Uint8Array.from(openssl("x509", "-in", at("pem"), "-outform", "DER"));
    return { pem: readFileSync(at("pem"), "utf8"), der, keyPem: readFileSync(at("key"), "utf8") };
  } finally {
    rmSync(directory, { recursive: true });
  }
}

/** The same certificate with its key declared for RSAES-OAEP, signed again. openssl can neither make nor read such a key. */
export function declareOaep({ der }: MadeCertificate, issuer: MadeCertificate): Uint8Array {
  const rsaEncryption = "06092a864886f70d0101010500";
  // The whole is 30 82 LLLL, then TBSCertificate 30 82 LLLL, then 19 bytes of algorithm and bit string header, then 256 of signature.
  const tbsLength = 4 + (((der[6] ?? 0) << 8) | (der[7] ?? 0));
  const tbs = fromHex(toHex(der.slice(4, 4 + tbsLength)).replace(rsaEncryption, "06092a864886f70d0101073000"));
  const signature = Uint8Array.from(sign("sha256", tbs, issuer.keyPem));
  return concatBytes(der.slice(0, 4), tbs, der.slice(4 + tbsLength, -256), signature);
}
