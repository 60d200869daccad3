import { readFileSync } from "node:fs";
import { join } from "node:path";
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
  launchEvent,
  parseFirmwareLog,
  replayFirmwareLog,
  type TpmPublic,
  tpmName,
} from "../../../attest/index.ts";
import { AGENT_PCR, ByteWriter, concatBytes, utf8 } from "../../../policy/index.ts";
import { attempt, replacement } from "../../support/appraisal-rows.ts";
import { elfImage } from "../../support/elf-image.ts";
import { makeClaims, makeEnrolment, servingEvents, shim } from "../../support/evidence-maker.ts";
import {
  encodeLog,
  localityEntry,
  logEvent,
  logHeader,
  noActionType,
  typicalLog,
} from "../../support/firmware-log-writer.ts";
import { libraryCache } from "../../support/library-cache.ts";
import { peImage } from "../../support/pe-image.ts";
import { encodeCertify, encodeQuote } from "../../support/quote-writer.ts";
import { filled, type Seeds } from "./made.ts";

const widePolicy = {
  ...defaultAppraisalPolicy.document,
  ...{ name: "wide", releases: ["first", "second"], maxViolations: 3, firmware: "waived", reboot: "refuse" },
  libraries: [
    { name: "/usr/lib/libsofthsm2.so", sha256: "11".repeat(32), closure: { "/lib/ld.so": "22".repeat(32) } },
    { name: "/opt/vendor.so", sha256: "33".repeat(32), closure: "as-released" },
  ],
  profiles: ["44".repeat(32)],
  keyAttributes: { neverExtractable: true },
};

export function tpmSeeds(): Record<string, Seeds> {
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
    "tpms-certify": {
      key: encodeCertify({
        ...{ qualifiedSigner: tpmName(encodeTpmPublic(ecc)), extraData: filled(32, 4), firmwareVersion: 0x20191023n },
        clockInfo: { clock: 123456n, resetCount: 3, restartCount: 1, safe: true },
        ...{ name: tpmName(encodeTpmPublic(ecc)), qualifiedName: filled(34, 6) },
      }),
    },
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
  const oneEvent = launchEvent("cap", "refused", filled(32, 1));
  const oneRecord = encodeCel([celRecord(0, AGENT_PCR, oneEvent)]);
  const claims = encodeClaims(makeClaims({ events, launch: "serving", asserted: {}, claims: {} }));
  const refused = encodeClaims(
    makeClaims({
      events: events.slice(0, 3),
      launch: "refused",
      asserted: {
        tokens: [],
        shims: [],
        keys: [],
        reasons: [{ code: "library", item: "x", expected: "a", got: "b" }] as never,
        unseal: [{ command: "TPM2_Unseal", rc: "0x0000099d", text: "policy" }],
      },
      claims: { debugEnabled: true },
    }),
  );
  const incidents = encodeClaims(
    makeClaims({
      ...{ events, launch: "stopped", claims: {} },
      incidents: [attempt("ptrace"), { what: "device", device: "usb:08e6:4433", change: "added" }, replacement],
      asserted: {
        shims: [
          { ...shim, role: "ended", process: null },
          { ...shim, id: 1 },
        ],
        lacks: ["landlock-tcp"],
        exceptions: ["module nethsm: tcp 192.0.2.7:1500 through the relay"],
      },
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
    claims: { serving: claims, refused, incidents },
    cel: { serving: cel, one: oneRecord },
    "cel-plain": {
      one: oneRecord,
      long: encodeCel([celRecord(0, AGENT_PCR, launchEvent("file", `/${"é".repeat(140)}`, filled(32, 1)))]),
      many: encodeCel(Array.from({ length: 30 }, (_, index) => celRecord(index, AGENT_PCR, oneEvent))),
    },
    "launch-event": {
      cap: encodeLaunchEvent(launchEvent("cap", "serving", filled(32, 0))),
      file: encodeLaunchEvent(launchEvent("file", "/é", filled(32, 9))),
    },
    "firmware-log": {
      typical: log,
      header: logHeader(),
      locality: encodeLog({ banks: ["sha1", "sha256"], entries: [localityEntry(3)], vendorInfo: utf8("vendor") }),
      note: concatBytes(logHeader(), logEvent(0xffffffff, noActionType, utf8("note"))),
      real: new Uint8Array(
        readFileSync(join(import.meta.dirname, "../../vectors/firmware-logs/systemd-boot-ovmf.bin")),
      ),
      hcrtm: concatBytes(logHeader(), logEvent(0, 0x80000010, utf8("HCRTM"))),
      "one-bank": concatBytes(logHeader(), logEvent(11, 0xd, utf8("grub_cmd: x\0"), ["sha256"])),
      "unknown-bank": logHeader([
        [0x0099, 100],
        [0x000b, 32],
      ]),
    },
    enrolment: { provider: encodeEnrolment(makeEnrolment(key)) },
    "appraisal-policy": {
      default: encodeAppraisalPolicy(defaultAppraisalPolicy.document),
      wide: utf8(`// what a verifier accepts\n${JSON.stringify(widePolicy)} /* the end */`),
    },
  };
}

export function imageSeeds(): Record<string, Seeds> {
  const der = (...parts: readonly string[]) => Uint8Array.fromHex(parts.join(""));
  return {
    "library-cache": {
      plain: libraryCache([{ name: "libc.so.6", path: "/lib/libc.so.6" }]),
      variants: libraryCache([
        { name: "libc.so.6", path: "/lib/glibc-hwcaps/x86-64-v3/libc.so.6", variant: "x86-64-v3" },
        { name: "libc.so.6", path: "/lib/libc.so.6" },
        { name: "libm.so.6", path: "/lib/libm.so.6", hwcap: 1n << 50n },
      ]),
    },
    elf: {
      hardened: elfImage({ stack: 6, flags: 8, strings: ["dlopen"], loadFlags: 5 }),
      loose: elfImage({ stack: 7, flags: 4, loadFlags: 7, tags: [22] }),
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
    devices: { two: utf8("1af4:1041\n8086:0d57\n"), usb: utf8("1af4:1042\nusb:08e6:4433\n") },
    der: {
      oids: der("0603550411", "06082a864886f70d0101"),
      nested: der("300a", "0201ff", "3005", "0403010203"),
      long: concatBytes(der("3081c8"), filled(200, 5)),
    },
  };
}
