import { execFileSync } from "node:child_process";
import { createPrivateKey, createPublicKey, generateKeyPairSync, type KeyObject, sign } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  ByteWriter,
  concatBytes,
  encodeSshSignature,
  fromHex,
  PolicyError,
  type SshPublicKey,
  type SshSignature,
  sha256,
  sshSignedData,
  utf8,
} from "../../policy/index.ts";

export const APPROVAL_NAMESPACE = "ironclaw-approval@1";

/** A folder with key files that the real ssh-keygen makes and signs with. */
export interface SshFolder extends Disposable {
  readonly path: string;
  /** Makes a key file; resolves with its public line. */
  newKey(name: string, type?: "ed25519" | "rsa" | "ecdsa", comment?: string): string;
  /** `ssh-keygen -Y sign`; the armored signature. */
  sign(name: string, message: Uint8Array, namespace?: string, options?: readonly string[]): string;
  /** `ssh-keygen -l` of a key. */
  list(name: string): string;
  /** `ssh-keygen -Y verify`: whether it takes this signature of whoever has that line. */
  verifies(line: string, message: Uint8Array, armored: string, namespace?: string): boolean;
}

export function openSshFolder(): SshFolder {
  const path = mkdtempSync(join(tmpdir(), "ironclaw-ssh-"));
  const keygen = (args: readonly string[], input: Uint8Array) =>
    execFileSync("ssh-keygen", args, { input, cwd: path, stdio: ["pipe", "pipe", "pipe"] });
  return {
    path,
    newKey: (name, type = "ed25519", comment = name) => {
      keygen(["-q", "-t", type, "-N", "", "-C", comment, "-f", name], new Uint8Array());
      return readFileSync(join(path, `${name}.pub`), "utf8").trimEnd();
    },
    sign: (name, message, namespace = APPROVAL_NAMESPACE, options = []) =>
      `${keygen(["-Y", "sign", "-q", "-n", namespace, "-f", name, ...options], message)}`,
    list: (name) => `${keygen(["-l", "-f", `${name}.pub`], new Uint8Array())}`,
    verifies: (line, message, armored, namespace = APPROVAL_NAMESPACE) => {
      writeFileSync(join(path, "allowed"), `someone ${line}\n`);
      writeFileSync(join(path, "signature"), armored);
      try {
        keygen(["-Y", "verify", "-f", "allowed", "-I", "someone", "-n", namespace, "-s", "signature"], message);
        return true;
      } catch {
        return false;
      }
    },
    [Symbol.dispose]: () => rmSync(path, { recursive: true, force: true }),
  };
}

/** A key whose private half the test has: it signs as ssh-keygen, or as a security key, does. */
export interface TestSshKey {
  readonly key: SshPublicKey;
  sign(message: Uint8Array, fields?: Partial<Pick<SshSignature, "namespace" | "hash" | "security">>): SshSignature;
  /** The same, armored. */
  armored(message: Uint8Array, fields?: Partial<Pick<SshSignature, "namespace" | "hash" | "security">>): string;
}

/** @param seed the same 32 bytes are the same key; random when absent. @param application makes it a security key */
export function testSshKey(application: string | null = null, seed?: Uint8Array): TestSshKey {
  const privateKey = seed === undefined ? generateKeyPairSync("ed25519").privateKey : seededKey(seed);
  const spki = createPublicKey(privateKey).export({ format: "der", type: "spki" });
  const type = application === null ? "ssh-ed25519" : "sk-ssh-ed25519@openssh.com";
  const key: SshPublicKey = { type, point: new Uint8Array(spki.subarray(-32)), application };
  const made: TestSshKey = {
    key,
    sign: (message, fields = {}) => {
      const { namespace = APPROVAL_NAMESPACE, hash = "sha512" } = fields;
      const security = fields.security ?? (application === null ? null : { flags: 1, counter: 7 });
      const data = sshSignedData({ namespace, hash }, message);
      const bytes = application === null || security === null ? data : touched(application, security, data);
      return { key, namespace, hash, security, signature: new Uint8Array(sign(null, bytes, privateKey)) };
    },
    armored: (message, fields) => encodeSshSignature(made.sign(message, fields)),
  };
  return made;
}

function touched(application: string, { flags, counter }: { flags: number; counter: number }, data: Uint8Array) {
  const own = new ByteWriter().u8(flags).u32(counter).finish();
  return concatBytes(sha256(utf8(application)), own, sha256(data));
}

function seededKey(seed: Uint8Array): KeyObject {
  const key = concatBytes(fromHex("302e020100300506032b657004220420"), seed);
  return createPrivateKey({ key: Buffer.from(key), format: "der", type: "pkcs8" });
}

/** What the policy's reader says of it; `taken` where it has nothing against it. */
export function refusal(act: () => unknown): string {
  try {
    act();
  } catch (error) {
    if (error instanceof PolicyError) return `${error.code} ${error.message}`;
    throw error;
  }
  return "taken";
}
