import { execFileSync } from "node:child_process";
import { createPublicKey, generateKeyPairSync } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { utf8 } from "../../policy/index.ts";
import type { ImageFile } from "../../vm-images/files.ts";
import { makeDemoToken } from "../../vm-images/token/token.ts";
import { type CountingToken, makeCountingToken } from "./counting-token.ts";
import { SOFTHSM } from "./shim-fixture.ts";

/** Long and odd, so that a search finds nothing else. */
export const LAUNCH_PIN = "launch-pin-8261-quillwort";

/** The HSM of a bench: its library with what that needs, and the public keys of what it holds. */
export interface BenchToken {
  readonly label: string;
  readonly serial: string;
  readonly library: string;
  /** Configuration files of the library. */
  readonly config: readonly string[];
  readonly environment: Readonly<Record<string, string>>;
  /** Where the library keeps its state. */
  readonly directory: string;
  /** SubjectPublicKeyInfo by name. */
  readonly keys: Readonly<Record<string, Uint8Array>>;
  /** The token as files for a cabinet; none for a token that stays on this machine. */
  readonly files: readonly ImageFile[];
  /** What counts wrong PINs; null for SoftHSM, which does not. */
  readonly counter: CountingToken | null;
}

const softhsmConfig = (directory: string) => join(directory, "softhsm2-host.conf");

export async function openSoftHsm(directory: string): Promise<BenchToken> {
  const token = await makeDemoToken(directory, "launch-bench", utf8(LAUNCH_PIN));
  const config = softhsmConfig(directory);
  return {
    ...{ label: token.label, serial: token.serial, keys: token.keys, files: token.files },
    ...{ library: SOFTHSM, config: [config], environment: { SOFTHSM2_CONF: config } },
    ...{ directory: join(directory, "tokens"), counter: null },
  };
}

export function openCountingToken(directory: string): BenchToken {
  const counter = makeCountingToken({ directory }, { pin: LAUNCH_PIN });
  return {
    ...{ label: counter.label, serial: counter.serial, keys: { "release-ec": counter.spki }, files: [] },
    ...{ library: counter.library, config: [], environment: counter.environment },
    ...{ directory: counter.directory, counter },
  };
}

export interface TokenKey {
  readonly label: string;
  readonly id: string;
  /**
   * `extractable`: made in the token, but may leave it. `imported`: came from outside, the same key for every id. `decrypt`, `unwrap`: an RSA
   * key of the token's own, for that alone.
   */
  readonly kind: "extractable" | "imported" | "decrypt" | "unwrap";
}

const imported = generateKeyPairSync("ec", { namedCurve: "P-256" }).privateKey;

/** Options of pkcs11-tool. */
const GENERATED = {
  extractable: ["--key-type", "EC:prime256v1", "--extractable"],
  decrypt: ["--key-type", "rsa:2048", "--usage-decrypt"],
  unwrap: ["--key-type", "rsa:2048", "--usage-wrap"],
} as const;

/** Puts another key into a bench's SoftHSM. Returns its public key. */
export function addTokenKey(directory: string, { label, id, kind }: TokenKey): Uint8Array {
  const options = {
    env: { ...process.env, SOFTHSM2_CONF: softhsmConfig(directory) },
    stdio: "pipe" as const,
  };
  const tool = ["--module", SOFTHSM, "--login", "--pin", LAUNCH_PIN, "--label", label, "--id", id];
  const at = (name: string) => join(directory, `${id}-${name}.der`);
  if (kind !== "imported") {
    execFileSync("pkcs11-tool", [...tool, "--keypairgen", ...GENERATED[kind]], options);
    execFileSync("pkcs11-tool", [...tool, "--read-object", "--type", "pubkey", "-o", at("public")], options);
    return new Uint8Array(
      createPublicKey({ key: readFileSync(at("public")), format: "der", type: "spki" }).export({
        format: "der",
        type: "spki",
      }),
    );
  }
  const spki = createPublicKey(imported.export({ format: "pem", type: "pkcs8" })).export({
    format: "der",
    type: "spki",
  });
  writeFileSync(at("private"), imported.export({ format: "der", type: "pkcs8" }));
  writeFileSync(at("public"), spki);
  const flags = ["--usage-sign", "--sensitive"];
  execFileSync("pkcs11-tool", [...tool, "--write-object", at("private"), "--type", "privkey", ...flags], options);
  execFileSync("pkcs11-tool", [...tool, "--write-object", at("public"), "--type", "pubkey"], options);
  return new Uint8Array(spki);
}
