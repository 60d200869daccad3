import type { ModulePolicy } from "../../attest/index.ts";
import { type PolicyDocument, sha256Hex, utf8 } from "../../policy/index.ts";
import type { DemoToken } from "../token/token.ts";

/** The scoped workload's uid in every image of this project, and that of one that no scope names. */
export const SCOPED_UID = 2001;
export const INTRUDER_UID = 2002;

export interface PolicyInputs {
  readonly module: ModulePolicy;
  readonly profileSha256: string;
  readonly devices: readonly string[];
  readonly token: DemoToken;
  /** SHA-256 of the programs that may call, in hexadecimal. */
  readonly executables: readonly string[];
  /** For a machine that is not quite the demo's. */
  readonly change?: (demo: PolicyDocument) => PolicyDocument;
}

/**
 * The demo's policy: one caller, two keys, two scopes, each with exactly the mechanisms its purpose needs.
 * CKM_RSA_PKCS is in the second because `openssl` builds the DigestInfo itself; its digest is pinned to SHA-256.
 */
export function demoPolicy({ module, profileSha256, devices, token, executables, change }: PolicyInputs): Uint8Array {
  const demo: PolicyDocument = {
    version: 3,
    serial: 1,
    owner: "demo",
    reviewBy: "2027-11-01",
    modules: {
      softhsm: {
        ...module,
        profile: { name: "local", sha256: profileSha256 },
        nodes: [],
        writable: ["/var/lib/softhsm/tokens"],
        connect: [],
        files: {},
        spares: 1,
      },
    },
    tokens: { signing: { module: "softhsm", label: token.label, serial: token.serial, pin: "hsm-pin" } },
    devices: [...devices],
    sandbox: { lacks: [] },
    onViolation: "kill",
    onLoginLost: "reboot",
    keys: {
      "release-ec": { spki: spkiOf(token, "release-ec"), does: "sign" },
      "document-rsa": { spki: spkiOf(token, "document-rsa"), does: "sign" },
    },
    callers: {
      "release-signer": {
        uid: SCOPED_UID,
        exe: executables.map((digest): `sha256:${string}` => `sha256:${digest}`),
        unit: null,
      },
    },
    scopes: [
      {
        name: "release-signing",
        caller: "release-signer",
        key: "release-ec",
        mechanisms: [{ type: "CKM_ECDSA", digest: "sha256" }],
        rate: { perMinute: 600, burst: 60 },
        audit: "written",
      },
      {
        name: "document-signing",
        caller: "release-signer",
        key: "document-rsa",
        mechanisms: [{ type: "CKM_SHA256_RSA_PKCS" }, { type: "CKM_RSA_PKCS", digest: "sha256" }],
        rate: { perMinute: 600, burst: 60 },
        audit: "written",
      },
    ],
  };
  return utf8(`${JSON.stringify(change?.(demo) ?? demo, null, 2)}\n`);
}

function spkiOf(token: DemoToken, name: string): `sha256:${string}` {
  const spki = token.keys[name];
  if (spki === undefined) throw new TypeError(`token: no key ${name}`);
  return `sha256:${sha256Hex(spki)}`;
}
