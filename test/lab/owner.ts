import { execFileSync } from "node:child_process";
import { createPrivateKey, createPublicKey, type KeyObject } from "node:crypto";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Lab } from "./bench.ts";

/** What its owner has of a key that is to come back: the blob that may travel, and what may be known. */
export interface Backup {
  /** PKCS #8, encrypted for the token's public key `kek` by RSA-OAEP. */
  readonly wrapped: Uint8Array;
  readonly publicKey: KeyObject;
  /** For the search alone: the lab is the owner, too, and forgets nothing. */
  readonly scalar: Uint8Array;
}

export const OWNER_COMMANDS = [
  "owner: openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 | openssl pkcs8 -topk8 -nocrypt -outform DER",
  "owner:   | openssl pkeyutl -encrypt -pubin -inkey kek.pem -pkeyopt rsa_padding_mode:oaep > blob",
] as const;

/** The owner's own tool, at the owner's own place: in pipes, no file holds the key. SoftHSM knows OAEP with SHA-1 only. */
export function wrapForToken(lab: Lab): Backup {
  const kek = join(lab.directory, "kek.pem");
  const spki = Buffer.from(lab.keys.get("kek")?.spki ?? []);
  writeFileSync(
    kek,
    createPublicKey({ key: spki, format: "der", type: "spki" }).export({ format: "pem", type: "spki" }),
  );
  const openssl = (args: readonly string[], input = Buffer.alloc(0)) =>
    execFileSync("openssl", args, { input, stdio: ["pipe", "pipe", "pipe"] });
  const made = openssl(["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"]);
  const pkcs8 = openssl(["pkcs8", "-topk8", "-nocrypt", "-outform", "DER"], made);
  const padding = ["-pkeyopt", "rsa_padding_mode:oaep"];
  const wrapped = openssl(["pkeyutl", "-encrypt", "-pubin", "-inkey", kek, ...padding], pkcs8);
  const key = createPrivateKey({ key: pkcs8, format: "der", type: "pkcs8" });
  const { d = "" } = key.export({ format: "jwk" });
  return {
    ...{ wrapped: Uint8Array.from(wrapped), publicKey: createPublicKey(key) },
    scalar: Uint8Array.from(Buffer.from(d, "base64url")),
  };
}
