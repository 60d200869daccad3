import {
  type CborValue,
  encodeBundle,
  encodeCabinet,
  encodeCbor,
  fromBase64,
  type SlotName,
  utf8,
} from "../../../policy/index.ts";
import { compiledProfile, PROFILE_NAMES, type ProfileName, profileText } from "../../../vm-images/profiles.ts";
import { decryptionScopes } from "../../support/broker-fixture.ts";
import { wideDocument } from "../../support/narrowing-steps.ts";
import {
  documentBytes,
  policyDocument,
  SAMPLE_CERTIFICATE,
  sshKeyLine,
  twoModuleDocument,
  twoTokenDocument,
} from "../../support/policy-document.ts";
import { filled, json, type Seeds } from "./made.ts";

export function policySeeds(): Record<string, Seeds> {
  const values: readonly CborValue[] = [
    0,
    23,
    24,
    -1,
    255,
    256,
    65_536,
    2 ** 32,
    0xffff_ffff_ffff_ffffn,
    -(1n << 64n),
    "text",
    "é",
    filled(30, 1),
    true,
    null,
  ];
  const map = new Map<number | string, CborValue>([
    [1, "one"],
    ["two", [2, [3]]],
    [-5, new Map([["deep", filled(3, 3)]])],
  ]);
  const slots = new Map<SlotName, Uint8Array>([
    ["policy", utf8("{}")],
    ["machine", utf8("machine")],
  ]);
  const pages = Object.fromEntries(
    ["module", "policy", "anchors", "release", "sealed", "machine", "token", "enrolment"].map((name) => [name, 4096]),
  );
  const decrypting = policyDocument();
  decryptionScopes(decrypting);
  const limited = policyDocument();
  Object.assign(limited, { approvers: { alice: { key: sshKeyLine("A"), notFor: ["backup"] } } });
  Object.assign(limited.scopes[0] ?? {}, {
    ...{ budget: { operations: 9 }, valid: { from: "2027-01-01T00:00:00Z", until: "2028-01-01T00:00:00Z" } },
    ...{ lifetime: "PT8H", idle: "PT15M", connections: 4, inFlight: 8, freezeBit: 1 },
    approvals: { required: 1, of: ["alice"], for: "window", window: "PT15M" },
  });
  const certified = policyDocument();
  certified.keys["release-ec"] = { spki: SAMPLE_CERTIFICATE.spki, does: "sign" };
  certified["certificates"] = { "release-ec": SAMPLE_CERTIFICATE.base64 };
  const shortProfile =
    "profile tiny\narch x86_64\nlimit core 0\nlandlock read /usr/lib\nwatch ptrace\nstage load\nallow read write when arg0 is 3\n";
  const withIncluded = (name: ProfileName): Uint8Array =>
    utf8(name === "local" ? profileText(name) : `${profileText("local")}\f${profileText(name)}`);
  const profiles = (make: (name: ProfileName) => Uint8Array): Seeds =>
    Object.fromEntries(PROFILE_NAMES.map((name) => [name, make(name)]));
  return {
    cbor: { values: encodeCbor(values), map: encodeCbor(map), tagged: encodeCbor({ tag: 601, value: map }) },
    cabinet: {
      empty: encodeCabinet(new Map(), pages as Record<SlotName, number>),
      two: encodeCabinet(slots, pages as Record<SlotName, number>).slice(0, 32_768),
    },
    bundle: {
      empty: encodeBundle([]),
      tree: encodeBundle([
        ["/etc/softhsm2.conf", utf8("directories.tokendir = /")],
        ["/usr/lib/a.so", filled(20, 1)],
        ["/usr/lib/b/c.so", filled(0, 1)],
      ]),
    },
    json: {
      document: json({ a: [1, -2.5, 1e3, true, null], b: { c: 'x\\u00e9"' } }),
      list: utf8(' [ "\\ud83d\\ude00" , 0.1e-2 ] '),
    },
    "commented-json": {
      document: utf8(
        '// what it is\r\n{ "a": [1, /* two */ -2.5, true], /* "b": 2, */\n  "b/*": { "c": "// \u00e9" } } //',
      ),
      list: utf8('/**/[ "\\"/*" , {} , [[ ]] ]\n'),
    },
    "policy-certificate": { sample: fromBase64(SAMPLE_CERTIFICATE.base64) },
    policy: {
      document: documentBytes(policyDocument()),
      decrypting: documentBytes(decrypting),
      "two-tokens": documentBytes(twoTokenDocument()),
      "two-modules": documentBytes(twoModuleDocument()),
      commented: utf8(`// reviewed\n${JSON.stringify(policyDocument()).replaceAll(",", ", /* \u00e9 */\n")}`),
      limited: documentBytes(limited),
      certified: documentBytes(certified),
    },
    "decision-table": { table: json(decisionTable()) },
    narrowing: {
      document: documentBytes(policyDocument()),
      wide: documentBytes(wideDocument()),
      "two-modules": documentBytes(twoModuleDocument()),
    },
    endpoint: {
      tcp: utf8("192.0.2.7:1500"),
      tcp6: utf8("[2001:db8::7]:65535"),
      unix: utf8("/run/pcscd/pcscd.comm"),
    },
    "profile-text": { ...profiles(withIncluded), short: utf8(shortProfile) },
    "profile-binary": profiles(compiledProfile),
    "shim-profile": profiles(compiledProfile),
  };
}

/** A case of each form. */
function decisionTable(): object {
  const ec = { scope: "release-signing", caller: "release-signer", key: "release-ec", operation: "sign" };
  const rsa = { ...ec, scope: "rsa-signing", key: "release-rsa", mechanism: "CKM_RSA_PKCS_PSS" };
  const vault = { ...ec, scope: "vault", key: "vault", operation: "decrypt", mechanism: "CKM_RSA_PKCS_OAEP" };
  const cases = [
    { ...ec, mechanism: "CKM_ECDSA", input: { length: 20 }, expect: { deny: "parameters" } },
    { ...ec, mechanism: "CKM_ECDSA", caller: null, key: null, input: "pending", expect: { deny: "caller" } },
    { ...rsa, parameters: { pss: { hash: "sha256", mgf: "sha256", saltLength: 32 } }, expect: "allow" },
    { ...vault, parameters: { oaep: { hash: "sha256", mgf: "sha1", label: "00" } }, expect: { deny: "parameters" } },
    {
      ...vault,
      input: { block: "7f", modulus: "ff" },
      state: { failures: 0, frozen: false },
      expect: { deny: "budget" },
    },
    {
      ...vault,
      operation: "unwrap",
      input: { wrapped: "7f", modulus: "ff", rule: "old" },
      expect: { deny: "operation" },
    },
  ];
  const at = "2027-01-01T00:00:00Z";
  return { version: 1, policy: "p.json", at, cases: cases.map((one, index) => ({ name: `case ${index}`, ...one })) };
}
