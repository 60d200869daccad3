/** A policy document that parses, for tests to break. Plain JSON values, so that a test can put anything into it. */
export interface PolicyDocument {
  [field: string]: unknown;
  keys: Record<string, unknown>;
  callers: Record<string, unknown>;
  scopes: Record<string, unknown>[];
}

export const SIGNER_UID = 2001;
export const SIGNER_EXE = `sha256:${"5e".repeat(32)}`;
const DIGEST = "ab".repeat(32);

export function policyDocument(): PolicyDocument {
  return {
    version: 3,
    serial: 7,
    owner: "release engineering",
    reviewBy: "2027-03-01",
    module: pinnedModule(),
    profile: { name: "local", sha256: DIGEST },
    devices: ["1af4:1041", "1af4:1042"],
    writable: ["/var/lib/softhsm/tokens"],
    connect: [],
    spares: 0,
    sandbox: { lacks: [] },
    onViolation: "kill",
    onLoginLost: "reboot",
    token: { label: "signing", serial: "0123456789abcdef" },
    keys: {
      "release-ec": { spki: `sha256:${"11".repeat(32)}`, does: "sign" },
      "release-rsa": { spki: `sha256:${"22".repeat(32)}`, does: "sign" },
      vault: { spki: `sha256:${"33".repeat(32)}`, does: "decrypt" },
    },
    callers: {
      "release-signer": { uid: SIGNER_UID, exe: [SIGNER_EXE], unit: null },
      backup: { uid: 2003, exe: [`sha256:${"6f".repeat(32)}`], unit: null },
    },
    scopes: [
      {
        name: "release-signing",
        caller: "release-signer",
        key: "release-ec",
        mechanisms: [{ type: "CKM_ECDSA", digest: "sha256" }, { type: "CKM_ECDSA_SHA256" }],
        rate: { perMinute: 600, burst: 60 },
        audit: "written",
      },
      {
        name: "rsa-signing",
        caller: "release-signer",
        key: "release-rsa",
        mechanisms: [
          { type: "CKM_RSA_PKCS", digest: "sha256" },
          { type: "CKM_SHA256_RSA_PKCS" },
          { type: "CKM_RSA_PKCS_PSS", digest: "sha256" },
          { type: "CKM_SHA256_RSA_PKCS_PSS" },
        ],
        audit: "written",
      },
    ],
  };
}

/** What the document's library is pinned to. */
export function pinnedModule() {
  return {
    path: "/usr/lib/softhsm/libsofthsm2.so",
    sha256: DIGEST,
    closure: { "/lib/x86_64-linux-gnu/libc.so.6": DIGEST },
    config: { "/etc/softhsm2.conf": DIGEST },
    environment: { SOFTHSM2_CONF: "/etc/softhsm2.conf" },
  };
}

/** The same document for two tokens, in the long form; its keys are on the first. */
export function twoTokenDocument(): PolicyDocument & { modules: Record<string, Record<string, unknown>> } {
  const { token: _, module, profile, writable, connect, spares, ...document } = policyDocument();
  for (const key of Object.values(document.keys)) Object.assign(key as object, { token: "signing", accepts: [] });
  const pinned = { ...(module as object), profile, nodes: [], writable, connect, files: {}, spares };
  return Object.assign(document, {
    modules: { softhsm: pinned },
    tokens: {
      signing: { module: "softhsm", label: "signing", serial: "0123456789abcdef", pin: "signing-pin" },
      payments: { module: "softhsm", label: "payments", serial: "0123456789abcdef", pin: "payments-pin" },
    },
  });
}

/** The same document with a second library, which reaches a network HSM and is that of the second token. */
export function twoModuleDocument(): ReturnType<typeof twoTokenDocument> {
  const document = twoTokenDocument();
  document.modules["nethsm"] = {
    ...pinnedModule(),
    path: "/usr/lib/nethsm/libnethsm.so",
    sha256: "cd".repeat(32),
    environment: {},
    profile: { name: "relay", sha256: "ce".repeat(32) },
    nodes: [],
    writable: ["/var/lib/nethsm"],
    connect: [{ listen: "127.0.0.1:1500", to: "192.0.2.7:1500" }],
    files: { "/var/lib/nethsm/tls.key": "tls-key" },
    spares: 1,
  };
  Object.assign((document["tokens"] as Record<string, object>)["payments"] ?? {}, { module: "nethsm" });
  return document;
}

export function documentBytes(document: unknown): Uint8Array {
  return new TextEncoder().encode(JSON.stringify(document));
}

/** An OpenSSH public key; which of them, says its last character: of the letters, A, F, G, H, I, L, O, Q, T, U, V and X make a point of the curve. */
export function sshKeyLine(last: string): string {
  return `ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJHW4bXyS9Qm9bIcJVbTfWZxYwq4LkWz8oRl9nWv3hT${last}`;
}
