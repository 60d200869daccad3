import { readFileSync } from "node:fs";
import { join } from "node:path";
import { EMPTY_HEAD, encodeRecord } from "../../../agent/audit/record.ts";
import { encodePrepareShim, encodeStartShim } from "../../../agent/spawner-messages.ts";
import { ByteWriter, concatBytes, utf8 } from "../../../policy/index.ts";
import { decryptingStream, oaep } from "../../support/broker-session.ts";
import { byteArray, INITIALIZE_VALUES, requestFrame, ulongs } from "../../support/rpc-client.ts";
import { root } from "../catalogue.ts";
import { filled, json, type Seeds } from "./made.ts";

export function agentSeeds(): Record<string, Seeds> {
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
    approvals: [],
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
        .u32(0)
        .finish(),
      workloads: reply(6).u16(3).finish(),
      stop: reply(8).finish(),
      state: reply(7)
        .u8(1)
        .bytes(filled(16, 9))
        .u64(1n << 26n)
        .finish(),
      swapped: new ByteWriter().u8(7).u8(1).bytes(utf8("state-swapped: volume id")).finish(),
      refused: new ByteWriter().u8(1).u8(1).bytes(utf8("no")).finish(),
    },
    "peer-facts": {
      cgroup: utf8("\u00001:name=systemd:/x\n0::/system.slice/signer.service\n"),
      stat: utf8(`\u000177 (a) b) S ${Array.from({ length: 49 }, (_, index) => index).join(" ")}`),
      sockets: utf8("\u00022 release-signing.sock:vault.sock"),
    },
    "rpc-frames": {
      session: concatBytes(
        Uint8Array.of(0x80, 2),
        requestFrame(1, "C_Initialize", INITIALIZE_VALUES),
        requestFrame(2, "C_GetInfo"),
      ),
      decrypt: concatBytes(Uint8Array.of(0x40), decryptingStream(2, oaep(2), filled(256, 3))),
      sign: concatBytes(
        Uint8Array.of(0x20, 1),
        requestFrame(
          3,
          "C_Sign",
          concatBytes(ulongs(1n), byteArray(filled(32, 1)), new ByteWriter().u32(256).finish()),
        ),
      ),
    },
    "rpc-decrypt": Object.fromEntries(
      [0, 1, 2].map((version) => [
        `version-${version}`,
        new ByteWriter()
          .u8(version)
          .sized16(concatBytes(ulongs(1n), oaep(version, { label: Uint8Array.of(0xc0, 0xde) }), ulongs(1n)))
          .bytes(concatBytes(ulongs(1n), byteArray(filled(256, 7)), new ByteWriter().u32(512).finish()))
          .finish(),
      ]),
    ),
    "rpc-orders": {
      session: Uint8Array.of(0, 9, 1, 1, 41, 1, 8, 0, 1, 2, 12, 1, 8),
      digest: Uint8Array.of(1, 9, 1, 4, 36, 1, 8, 37, 1, 2, 7, 1, 5),
      verify: Uint8Array.of(2, 9, 1, 4, 47, 1, 0, 2, 48, 1, 4, 7, 1, 4, 7, 1),
      sign: Uint8Array.of(0, 0xc0, 0xc1, 0xc2),
      parts: Uint8Array.of(2, 0xc0, 41, 1, 1, 1, 43, 1, 2, 1, 7, 44, 1, 4),
      decrypt: Uint8Array.of(4, 0xc0, 0xc1, 0xc2),
      unwrap: Uint8Array.of(8, 0xc0, 0xc1, 0xc1),
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
      oaep: concatBytes(Uint8Array.of(3, 2), oaep(2, { label: utf8("label") }), ulongs(9n)),
      "oaep-old": concatBytes(Uint8Array.of(3, 0), oaep(0), ulongs(9n)),
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
    "audit-line": {
      sign: line(entry),
      budget: line({ ...entry, operation: "decrypt", decision: "deny", step: "budget", reason: "too many" }),
      busy: line({ ...entry, decision: "deny", step: "busy", reason: "too many requests wait for the token" }),
      connect: line(nothing),
      approved: line({ ...entry, approvals: ["alice", "bob"] }),
      repair: line({ ...nothing, operation: "repair", statement: { kind: "repair", bytes: 12 } }),
      retention: line({ ...nothing, operation: "retention", statement: { kind: "retention", first: 77 } }),
      certificate: line({
        ...{ ...nothing, operation: "certificate" },
        statement: { kind: "certificate", public: "AAAA", attest: "AAA=", signature: "AA==" },
      }),
      checkpoint: line({
        ...{ ...nothing, operation: "checkpoint" },
        statement: {
          kind: "checkpoint",
          seq: 7,
          hash: "ab".repeat(32),
          key: `000b${"cd".repeat(32)}`,
          signature: "AAAA",
        },
      }),
    },
    "agent-config": { image: Uint8Array.from(readFileSync(join(root, "vm-images/guest/etc/ironclaw/agent.json"))) },
    ...cSeeds(),
  };
}

/** Requests that the C parts read. */
function cSeeds(): Record<string, Seeds> {
  const files = [
    { path: "/usr/lib/a.so", source: { kind: "root", path: "/usr/lib/a.so" }, executable: true, writable: false },
    { path: "/var/x", source: { kind: "cabinet", offset: 4096, length: 10 }, executable: false, writable: true },
  ] as const;
  const start = {
    id: 1,
    profileSha256: filled(32, 1),
    environment: ["A=1", "SOFTHSM2_CONF=/etc/x"],
    writable: ["/var"],
    nodes: ["/dev/hsm0", "usb:08e6:4433"],
    connect: [
      { listen: "127.0.0.1:1500", to: "192.0.2.7:1500" },
      { listen: "/run/pcscd/pcscd.comm", to: "[2001:db8::1]:9" },
    ],
  };
  return {
    "metrics-text": {
      gauges: utf8(
        '# HELP ironclaw_serving 1 when\n# TYPE ironclaw_serving gauge\nironclaw_serving 1\n\nironclaw_a{b="c\\n"} +Inf\n',
      ),
      histogram: utf8(
        'ironclaw_b{le="+Inf",scope="s"} 2\nironclaw_b{le="0.1"} 1e-9\nironclaw_c Nan\nironclaw_d -0.5\n',
      ),
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
    "relay-endpoint": {
      v4: utf8("192.0.2.7:1500"),
      v6: utf8("[2001:db8::1]:9"),
      path: utf8("/run/pcscd/pcscd.comm"),
    },
    "spawner-prepare": { two: encodePrepareShim(0, files).slice(1) },
    "spawner-start": {
      plain: encodeStartShim(start).slice(1),
      bare: encodeStartShim({ ...start, environment: [], writable: [], nodes: [], connect: [] }).slice(1),
    },
  };
}
