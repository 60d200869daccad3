// node test/fuzz/seeds.ts: writes the corpora anew, with the project's own encoders. The same source writes the same bytes.
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { EMPTY_HEAD, encodeRecord } from "../../agent/audit-record.ts";
import { encodeCounters } from "../../agent/counter-mirror.ts";
import { encodePrepareShim, encodeStartShim } from "../../agent/spawner-messages.ts";
import {
  celRecord,
  defaultAppraisalPolicy,
  encodeAppraisalPolicy,
  encodeCel,
  encodeClaims,
  encodeEkCertificates,
  encodeEnrolment,
  encodeEvidence,
  encodeLaunchEvent,
  encodePcrs,
  encodeTpmPublic,
  encodeTpmSignature,
  foldBootExtends,
  launchEvent,
  parseFirmwareLog,
  replayFirmwareLog,
  type TpmPublic,
  tpmName,
} from "../../attest/index.ts";
import {
  AGENT_PCR,
  type Anchors,
  ByteWriter,
  type CborValue,
  concatBytes,
  type Delegation,
  encodeAnchors,
  encodeBundle,
  encodeCabinet,
  encodeCbor,
  encodeDelegation,
  encodeDerSignature,
  encodeEnvelope,
  encodeRelease,
  keyIdOf,
  measureObjectPolicy,
  RELEASE_TYPE,
  type Release,
  type SlotName,
  toBase64,
  toHex,
  utf8,
} from "../../policy/index.ts";
import { compileProfile } from "../../policy/runtime/compile.ts";
import { parseProfile } from "../../policy/runtime/parse.ts";
import { encodeSealedPublic } from "../../seal/import-blob.ts";
import { encodeOrder } from "../../seal/order.ts";
import { encodeEscrow } from "../../seal/ownership.ts";
import { encodeSealedPackage, type SealedPackage } from "../../seal/package.ts";
import { EMPTY_STORE, encodeSlot } from "../../seal/store.ts";
import { encodeAnchor, encodeLoginRecord } from "../../seal/tpm-records.ts";
import { unsealRequest } from "../../seal/unseal.ts";
import { declareOaep, EXTENSIONS, makeCertificate } from "../support/certificates.ts";
import { elfImage } from "../support/elf-image.ts";
import { makeClaims, makeEnrolment, servingEvents } from "../support/evidence-maker.ts";
import {
  encodeLog,
  localityEntry,
  logEvent,
  logHeader,
  noActionType,
  typicalLog,
} from "../support/firmware-log-writer.ts";
import { peImage } from "../support/pe-image.ts";
import { documentBytes, policyDocument, twoTokenDocument } from "../support/policy-document.ts";
import { encodeQuote } from "../support/quote-writer.ts";
import { byteArray, INITIALIZE_VALUES, requestFrame, ulongs } from "../support/rpc-client.ts";
import { root } from "./catalogue.ts";
import { operatorKeyPem, releaseKeyPem, rootKeyPem } from "./keys.ts";

type Seeds = Readonly<Record<string, Uint8Array>>;

const filled = (length: number, byte: number) => new Uint8Array(length).fill(byte);
const json = (value: unknown) => utf8(JSON.stringify(value));

// Versions of formats change: what belongs to the release and to the sealed package stands in the next functions only.

function madeRelease(): Release {
  const pcrs = (size: number) =>
    Object.fromEntries([4, 9, 11, 12, AGENT_PCR].map((pcr) => [`${pcr}`, toHex(filled(size, pcr))]));
  return {
    version: 2,
    name: "seed",
    image: { id: "ab".repeat(32), variant: "release" },
    epoch: 3,
    notBefore: "2027-01-01T00:00:00Z",
    notAfter: "2027-12-31T23:59:59Z",
    agentPcr: AGENT_PCR,
    pcrs: { sha256: pcrs(32), sha384: pcrs(48) },
    events: [{ kind: "config", name: "/etc/ironclaw/agent.json", sha256: "cd".repeat(32) }],
    unseal: toBase64(filled(64, 1)),
    raise: null,
    releaseKey: releaseKeyPem,
    delegation: madeDelegation(),
  };
}

function madeDelegation(): Delegation {
  const signature = toBase64(filled(64, 2));
  const credentials = ["hsm-pin", "volume-key"].map((name) => ({ name, signature }));
  return { lastEpoch: 7, credentials, first: signature, raise: signature };
}

function sealedPackages(): Readonly<Record<"rsa" | "p384", SealedPackage>> {
  const objectPublic = (name: string) => encodeSealedPublic(measureObjectPolicy(rootKeyPem, name), filled(32, 7));
  const common = { version: 2, generation: 2, nonce: filled(12, 3), ciphertext: filled(64 + 16, 4) } as const;
  const pin = { name: "hsm-pin", kind: "pin", notAfter: null, tokenSerial: "0123456789abcdef" } as const;
  const volume = {
    name: "volume-key",
    kind: "volume-key",
    notAfter: "2027-12-31T23:59:59Z",
    tokenSerial: null,
  } as const;
  return {
    rsa: {
      ...common,
      ...pin,
      ekName: concatBytes(Uint8Array.of(0, 0x0b), filled(32, 5)),
      objectPublic: objectPublic(pin.name),
      duplicate: filled(108, 8),
      encryptedSeed: filled(256, 9),
    },
    p384: {
      ...common,
      ...volume,
      ekName: concatBytes(Uint8Array.of(0, 0x0c), filled(48, 5)),
      objectPublic: objectPublic(volume.name),
      duplicate: filled(124, 8),
      encryptedSeed: new ByteWriter().sized16(filled(48, 1)).sized16(filled(48, 2)).finish(),
    },
  };
}

function unsealerRequests(): Seeds {
  const anchors: Anchors = { version: 1, releaseRoot: rootKeyPem, operator: operatorKeyPem };
  const common = { imported: filled(140, 6), release: madeRelease(), anchors };
  const { rsa, p384 } = sealedPackages();
  return {
    rsa: unsealRequest({ ...common, sealed: rsa }),
    p384: unsealRequest({ ...common, sealed: p384, sinks: 16 }),
  };
}

/** What the store on the state disk, the TPM's NV and the operator's escrow hold. */
function storedSeeds(): Record<string, Seeds> {
  const ekName = toHex(concatBytes(Uint8Array.of(0, 0x0b), filled(32, 5)));
  const entry = {
    name: "hsm-pin",
    generation: 2,
    state: "served",
    package: utf8("{}"),
    imported: filled(100, 1),
  } as const;
  const login = { name: "hsm-pin", outcome: "accepted", generation: 2, tries: 3n, package: "ab".repeat(32) } as const;
  return {
    "store-slot": {
      empty: encodeSlot(1n, EMPTY_STORE),
      one: encodeSlot(7n, { ekName, entries: [entry] }),
    },
    "login-record": { accepted: encodeLoginRecord(login) },
    "tpm-anchor": {
      set: encodeAnchor({ volumeId: filled(16, 1), seq: 12, hash: "cd".repeat(32) }),
      unset: filled(64, 0),
    },
    order: {
      retry: encodeOrder({ version: 1, order: "retry-login", ekName, name: "hsm-pin", record: "01".repeat(64) }),
      volume: encodeOrder({ version: 1, order: "new-volume", ekName, anchor: "02".repeat(64) }),
      provision: encodeOrder({ version: 1, order: "provision", ekName, boot: "03".repeat(32) }),
    },
    "tpm-counters": { some: encodeCounters({ epoch: 33n, resetCount: 7, restartCount: 0 }) },
    prediction: { boot: madePrediction() },
    escrow: { plain: encodeEscrow({ ekName, secret: concatBytes(utf8("IRONOWN1"), filled(24, 1)) }) },
  };
}

function madePrediction(): Uint8Array {
  const boot = ([4, 9, 11] as const).map((pcr) => ({ pcr, sha256: "ab".repeat(32), sha384: "cd".repeat(48) }));
  const events = [{ kind: "config", name: "/etc/ironclaw/agent.json", sha256: "ef".repeat(32) }];
  return json({ image: { id: "ab".repeat(32), variant: "demo" }, pcrs: foldBootExtends(boot), boot, events });
}

function releaseSeeds(): Record<string, Seeds> {
  const release = encodeRelease(madeRelease());
  const envelope = (payload: Uint8Array, payloadType: string, sig: Uint8Array) =>
    encodeEnvelope({ payloadType, payload, signature: { keyid: keyIdOf(releaseKeyPem), sig } });
  const { rsa, p384 } = sealedPackages();
  return {
    release: { plain: release, raise: encodeRelease({ ...madeRelease(), raise: toBase64(filled(256, 3)) }) },
    delegation: { plain: encodeDelegation({ version: 2, releaseKey: releaseKeyPem, delegation: madeDelegation() }) },
    ...storedSeeds(),
    "signed-release": { plain: envelope(release, RELEASE_TYPE, filled(64, 3)) },
    envelope: {
      small: envelope(utf8("{}"), "application/json", filled(64, 3)),
      rsa: envelope(utf8("payload"), "text/plain", filled(256, 4)),
    },
    "sealed-package": { rsa: encodeSealedPackage(rsa), p384: encodeSealedPackage(p384) },
    anchors: { plain: encodeAnchors({ version: 1, releaseRoot: rootKeyPem, operator: operatorKeyPem }) },
    "key-pem": { p256: utf8(rootKeyPem), rsa: utf8(operatorKeyPem) },
    "der-signature": {
      plain: encodeDerSignature(filled(64, 1)),
      high: encodeDerSignature(filled(64, 0xff)),
      short: encodeDerSignature(concatBytes(filled(63, 0), filled(1, 1))),
    },
    "unsealer-request": unsealerRequests(),
  };
}

function policySeeds(): Record<string, Seeds> {
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
  const profile = readFileSync(join(root, "policy/runtime/local.profile"), "utf8");
  const shortProfile =
    "profile tiny\narch x86_64\nlimit core 0\nlandlock read /usr/lib\nwatch ptrace\nstage load\nallow read write when arg0 is 3\n";
  const compiled = compileProfile(parseProfile(profile));
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
    policy: { document: documentBytes(policyDocument()), "two-tokens": documentBytes(twoTokenDocument()) },
    "profile-text": { local: utf8(profile), short: utf8(shortProfile) },
    "profile-binary": { local: compiled },
    "shim-profile": { local: compiled },
  };
}

function tpmSeeds(): Record<string, Seeds> {
  const ecc: TpmPublic = {
    kind: "ecc",
    nameAlg: 0x000b,
    attributes: 0x50472,
    authPolicy: new Uint8Array(),
    symmetric: null,
    scheme: { scheme: 0x0018, hash: 0x000b },
    curve: 3,
    x: filled(32, 1),
    y: filled(32, 2),
  };
  const rsa: TpmPublic = {
    kind: "rsa",
    nameAlg: 0x000c,
    attributes: 0x300b2,
    authPolicy: filled(48, 3),
    symmetric: { algorithm: 6, keyBits: 256, mode: 0x43 },
    scheme: null,
    keyBits: 2048,
    exponent: 0,
    modulus: filled(256, 0xc1),
  };
  const quote = encodeQuote({
    qualifiedSigner: tpmName(encodeTpmPublic(ecc)),
    extraData: filled(32, 4),
    clockInfo: { clock: 123456n, resetCount: 3, restartCount: 1, safe: true },
    firmwareVersion: 0x20191023n,
    selections: [
      { hash: 0x000b, pcrs: [0, 7, 13] },
      { hash: 0x000c, pcrs: [23] },
    ],
    pcrDigest: filled(32, 5),
  });
  const list = (kind: number, ...numbers: readonly number[]) =>
    numbers.reduce((writer, number) => writer.u32(number), new ByteWriter().u8(kind)).finish();
  return {
    "tpms-attest": { two: quote },
    "tpmt-signature": {
      ecdsa: encodeTpmSignature({ kind: "ecdsa", hash: 0x000b, r: filled(32, 1), s: filled(32, 2) }),
      rsassa: encodeTpmSignature({ kind: "rsassa", hash: 0x000c, signature: filled(256, 3) }),
    },
    "tpmt-public": { ecc: encodeTpmPublic(ecc), rsa: encodeTpmPublic(rsa) },
    "tss-structures": {
      handles: list(0, 1, 2, 0x81010001, 0x81010002),
      nv: new ByteWriter().u8(1).u32(0x01c00002).u16(0x000b).u32(0x62072001).sized16(filled(32, 1)).u16(1500).finish(),
      selection: new ByteWriter()
        .u8(2)
        .u32(1)
        .u16(0x000b)
        .u8(3)
        .bytes(Uint8Array.of(1, 2, 3))
        .finish(),
      properties: list(3, 6, 2, 0x100, 0x322e3000, 0x105, 0x49424d00),
      digests: new ByteWriter().u8(4).u32(1).u16(0x000b).bytes(filled(32, 1)).finish(),
      time: new ByteWriter().u8(5).u64(1n).u64(2n).u32(3).u32(4).u8(1).finish(),
      banks: new ByteWriter().u8(6).u32(5).u32(1).u16(0x000c).u8(3).bytes(filled(3, 255)).finish(),
    },
    ...evidenceSeeds(ecc, quote),
  };
}

function evidenceSeeds(ak: TpmPublic, quote: Uint8Array): Record<string, Seeds> {
  const events = servingEvents();
  const key = { publicArea: encodeTpmPublic(ak), sign: () => Promise.reject(new Error("no key")) };
  const log = typicalLog();
  const cel = encodeCel(events.map((event, index) => celRecord(index, AGENT_PCR, event)));
  const claims = encodeClaims(makeClaims({ events, launch: "serving", asserted: {}, claims: {} }));
  const refused = encodeClaims(
    makeClaims({
      events: events.slice(0, 3),
      launch: "refused",
      asserted: {
        tokens: [],
        shim: null,
        keys: [],
        reasons: [{ code: "library", item: "x", expected: "a", got: "b" }] as never,
        unseal: [{ command: "TPM2_Unseal", rc: "0x0000099d", text: "policy" }],
      },
      claims: { debugEnabled: true },
    }),
  );
  const pcrs = encodePcrs({ bank: "sha256", values: replayFirmwareLog(parseFirmwareLog(log), "sha256") });
  const evidence = encodeEvidence({
    quote,
    signature: encodeTpmSignature({ kind: "ecdsa", hash: 0x000b, r: filled(32, 1), s: filled(32, 2) }),
    ak: key.publicArea,
    pcrs,
    firmwareLog: log,
    agentLog: cel,
    ekCertificates: encodeEkCertificates([filled(4, 0x30)]),
    claims,
  });
  return {
    evidence: { serving: evidence },
    "evidence-pcrs": { sha256: pcrs, one: encodePcrs({ bank: "sha384", values: new Map([[0, filled(48, 1)]]) }) },
    "ek-certificates": {
      none: encodeEkCertificates([]),
      two: encodeEkCertificates([filled(20, 0x30), filled(300, 1)]),
    },
    claims: { serving: claims, refused },
    cel: { serving: cel, one: encodeCel([celRecord(0, AGENT_PCR, launchEvent("cap", "refused", filled(32, 1)))]) },
    "launch-event": {
      cap: encodeLaunchEvent(launchEvent("cap", "serving", filled(32, 0))),
      file: encodeLaunchEvent(launchEvent("file", "/é", filled(32, 9))),
    },
    "firmware-log": {
      typical: log,
      header: logHeader(),
      locality: encodeLog({ banks: ["sha1", "sha256"], entries: [localityEntry(3)], vendorInfo: utf8("vendor") }),
      note: concatBytes(logHeader(), logEvent(0xffffffff, noActionType, utf8("note"))),
    },
    enrolment: { provider: encodeEnrolment(makeEnrolment(key)) },
    "appraisal-policy": {
      default: encodeAppraisalPolicy(defaultAppraisalPolicy),
      wide: encodeAppraisalPolicy({ ...defaultAppraisalPolicy, maxViolations: 3, waiveFirmwarePins: true }),
    },
  };
}

function imageSeeds(): Record<string, Seeds> {
  const der = (...parts: readonly string[]) => Uint8Array.fromHex(parts.join(""));
  return {
    elf: {
      full: elfImage({
        soname: "libx.so.1",
        needed: ["libc.so.6", "libdl.so.2"],
        runpath: "$ORIGIN/lib:/opt",
        flags1: 0x800,
      }),
      rpath: elfImage({ needed: ["libc.so.6"], rpath: "/a:/b", interpreter: "/lib64/ld-linux-x86-64.so.2" }),
      arm: elfImage({ machine: 183 }),
    },
    pe: {
      two: peImage([
        [".text", filled(40, 1)],
        [".cmdline", utf8("console=ttyS0")],
      ]),
      signed: peImage([[".linux", filled(10, 2)]], filled(8, 3)),
    },
    "pci-devices": { two: utf8("1af4:1041\n8086:0d57\n") },
    der: {
      oids: der("0603550411", "06082a864886f70d0101"),
      nested: der("300a", "0201ff", "3005", "0403010203"),
      long: concatBytes(der("3081c8"), filled(200, 5)),
    },
  };
}

function agentSeeds(): Record<string, Seeds> {
  const key = new ByteWriter()
    .u64(7n)
    .u64(3n)
    .u64(0n)
    .sized16(utf8("id"))
    .sized16(utf8("label"))
    .u32(0b1001)
    .u32(0xfff);
  for (const part of [filled(256, 1), filled(3, 1), filled(0, 0), filled(0, 0)]) key.sized16(part);
  const slot = new ByteWriter().u64(1n).bytes(filled(96, 0x20)).u64(0x40dn).bytes(filled(4, 2));
  const loaded = new ByteWriter()
    .u8(2)
    .u8(2)
    .u8(40)
    .bytes(filled(64, 0x41))
    .u8(2)
    .u8(6)
    .u8(1)
    .bytes(slot.finish())
    .u16(1)
    .sized16(utf8("/lib/libc.so.6"));
  const reply = (op: number) => new ByteWriter().u8(op).u8(0);
  const entry = {
    caller: { uid: 1000, pid: 7, exe: "/usr/bin/signer" },
    scope: "release-signing",
    key: "release-ec",
    mechanism: "CKM_ECDSA",
    operation: "sign",
    inputDigest: `sha256:${"ab".repeat(32)}`,
    decision: "allow",
    step: null,
    reason: "rule 1",
  } as const;
  const nothing = {
    ...entry,
    caller: null,
    key: null,
    mechanism: null,
    inputDigest: null,
    operation: "connect",
    decision: "deny",
    step: "caller",
  } as const;
  const line = (record: Parameters<typeof encodeRecord>[0]) =>
    encodeRecord(record, EMPTY_HEAD, "2027-01-15T12:00:00.000Z").line.slice(0, -1);
  return {
    "shim-replies": {
      ready: new ByteWriter().u8(0).u32(6).u8(1).finish(),
      probe: new ByteWriter().u8(1).u16(2).sized16(utf8("execve")).u32(1).sized16(utf8("bpf")).u32(0).finish(),
      loaded: loaded.finish(),
      keys: new ByteWriter().u8(3).u16(1).bytes(key.finish()).finish(),
      status: new ByteWriter().u8(5).u64(12n).finish(),
    },
    "spawner-replies": {
      prepare: reply(1).u16(2).bytes(filled(32, 1)).u64(10n).bytes(filled(32, 2)).u64(20n).finish(),
      start: reply(2).u32(77).finish(),
      peer: reply(3).u32(77).bytes(filled(32, 1)).sized16(utf8("/usr/bin/x")).finish(),
      status: reply(4)
        .u8(1)
        .u32(0)
        .sized16(utf8("CapEff:\t0\nUid:\t991\n"))
        .sized16(utf8("net 1\n"))
        .sized16(utf8("net 2\n"))
        .finish(),
      workloads: reply(6).u16(3).finish(),
      state: reply(7)
        .u8(1)
        .bytes(filled(16, 9))
        .u64(1n << 26n)
        .finish(),
      swapped: new ByteWriter().u8(7).u8(1).bytes(utf8("state-swapped: volume id")).finish(),
      refused: new ByteWriter().u8(1).u8(1).bytes(utf8("no")).finish(),
    },
    "rpc-frames": {
      session: concatBytes(
        Uint8Array.of(0x80, 2),
        requestFrame(1, "C_Initialize", INITIALIZE_VALUES),
        requestFrame(2, "C_GetInfo"),
      ),
      sign: concatBytes(
        Uint8Array.of(0x20, 1),
        requestFrame(
          3,
          "C_Sign",
          concatBytes(ulongs(1n), byteArray(filled(32, 1)), new ByteWriter().u32(256).finish()),
        ),
      ),
    },
    "rpc-arguments": {
      bytes: new ByteWriter().u8(0).u8(2).u8(1).sized32(utf8("data")).finish(),
      attributes: new ByteWriter()
        .u8(1)
        .u8(2)
        .u32(2)
        .u32(0)
        .u8(1)
        .u32(8)
        .u64(3n)
        .u32(3)
        .u8(1)
        .u32(1)
        .sized32(utf8("x"))
        .finish(),
      nested: new ByteWriter()
        .u8(1)
        .u8(2)
        .u32(1)
        .u32(0x40000211)
        .u8(1)
        .u32(24)
        .u32(1)
        .u32(1)
        .u8(1)
        .u32(1)
        .u8(1)
        .finish(),
      queries: new ByteWriter().u8(2).u8(1).u32(1).u32(0x40000212).u32(24).u32(1).u32(0).u32(8).finish(),
      mechanism: new ByteWriter().u8(3).u8(2).u32(0x1041).u64(9n).finish(),
      pss: new ByteWriter().u8(3).u8(2).u32(0x43).u8(1).u64(0x250n).u64(2n).u64(32n).u64(9n).finish(),
      plain: new ByteWriter().u8(4).u8(0).u8(1).u64(2n).u32(3).finish(),
    },
    "control-line": {
      status: json({ id: 1, op: "status" }),
      activate: json({ id: 2, op: "activate", credentialBlob: "AAAA", encryptedSecret: "AAA=" }),
      challenge: json({ id: 3, op: "challenge", nonce: "ab".repeat(32), bank: "sha256", pcrs: [0, 7, 13] }),
      audit: json({ id: 4, op: "audit", from: 0, limit: 500 }),
    },
    "unseal-answer": {
      released: utf8('{"kind":"released","ms":31}\n'),
      refused: utf8('{"kind":"refused","answers":[{"command":"TPM2_Unseal","rc":"0x0000099d","text":"policy"}]}\n'),
      failed: utf8('{"kind":"failed","command":"request","rc":"0x00000000","text":"sinks"}\n'),
    },
    "audit-line": { sign: line(entry), connect: line(nothing) },
    "agent-config": { image: Uint8Array.from(readFileSync(join(root, "vm-images/guest/etc/ironclaw/agent.json"))) },
    ...cSeeds(),
  };
}

/** Requests that the C parts read. */
function cSeeds(): Record<string, Seeds> {
  const frame = (id: number, op: number, payload: Uint8Array) =>
    new ByteWriter()
      .u32(5 + payload.length)
      .u32(id)
      .u8(op)
      .bytes(payload)
      .finish();
  const slot = (id: bigint) => new ByteWriter().u64(id).finish();
  const sign = new ByteWriter().u64(3n).u64(17n).u64(0x1041n).u8(0).sized32(filled(32, 1)).finish();
  const pss = new ByteWriter()
    .u64(4n)
    .u64(28n)
    .u64(0xdn)
    .u8(1)
    .u64(0x250n)
    .u64(2n)
    .u64(32n)
    .sized32(filled(32, 1))
    .finish();
  const nothing = new Uint8Array();
  const files = [
    { path: "/usr/lib/a.so", source: { kind: "root", path: "/usr/lib/a.so" }, executable: true, writable: false },
    { path: "/var/x", source: { kind: "cabinet", offset: 4096, length: 10 }, executable: false, writable: true },
  ] as const;
  const start = {
    id: 1,
    profileSha256: filled(32, 1),
    environment: ["A=1", "SOFTHSM2_CONF=/etc/x"],
    writable: ["/var"],
  };
  return {
    "shim-frames": {
      sign: concatBytes(
        frame(1, 5, slot(3n)),
        frame(2, 5, slot(4n)),
        frame(3, 6, sign),
        frame(4, 6, pss),
        frame(9, 8, nothing),
      ),
      load: frame(1, 3, new ByteWriter().sized16(utf8("/usr/lib/x.so")).finish()),
    },
    "spawner-state": {
      blank: filled(4096, 0),
      good: concatBytes(
        new ByteWriter()
          .bytes(utf8("IRONSTAT"))
          .u32(1)
          .bytes(filled(16, 2))
          .u64(1n << 30n)
          .finish(),
        filled(4096 - 36, 0),
      ),
    },
    "spawner-prepare": { two: encodePrepareShim(0, files).slice(1) },
    "spawner-start": {
      plain: encodeStartShim(start).slice(1),
      bare: encodeStartShim({ ...start, environment: [], writable: [] }).slice(1),
    },
  };
}

/** openssl draws new keys each time, so these are made once and kept: delete the folder to have others. */
function makeCertificates(directory: string): void {
  mkdirSync(directory, { recursive: true });
  if (readdirSync(directory).length > 0) return;
  const names =
    "subjectAltName=critical,dirName:tpm\n[tpm]\n1.2.23.133.2.1=id:00001014\n2.2.23.133.2.2=swtpm\n3.2.23.133.2.3=id:20191023";
  const authority = makeCertificate({ subject: "/CN=authority", extensions: EXTENSIONS.lastAuthority, issuer: null });
  const ek = makeCertificate({ subject: "/CN=ek", extensions: `${EXTENSIONS.ek}\n${names}`, issuer: authority });
  writeFileSync(join(directory, "authority"), authority.der);
  writeFileSync(join(directory, "ek"), ek.der);
  writeFileSync(join(directory, "oaep"), declareOaep(ek, authority));
}

for (const [target, seeds] of Object.entries({
  ...releaseSeeds(),
  ...policySeeds(),
  ...tpmSeeds(),
  ...imageSeeds(),
  ...agentSeeds(),
})) {
  const directory = join(import.meta.dirname, "corpus", target);
  rmSync(directory, { recursive: true, force: true });
  mkdirSync(directory, { recursive: true });
  for (const [name, bytes] of Object.entries(seeds)) writeFileSync(join(directory, name), bytes);
}
makeCertificates(join(import.meta.dirname, "corpus/certificate"));
