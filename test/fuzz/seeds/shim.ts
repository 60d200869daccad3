import {
  encodeDecrypt,
  encodePath,
  encodeSign,
  encodeSlot,
  encodeUnwrap,
  encodeUses,
  OP,
  type UnwrapRequest,
} from "../../../agent/shim-requests.ts";
import { ByteWriter, concatBytes, utf8 } from "../../../policy/index.ts";
import { filled, type Seeds } from "./made.ts";

/** What the shim sends, and what its C part reads. The driver's token is in slot 3, with private keys 17, 18 and a secret key 19. */
export function shimSeeds(): Record<string, Seeds> {
  return { "shim-replies": replySeeds(), "shim-frames": frameSeeds() };
}

/** The first byte says which parser of the target reads the rest. */
function replySeeds(): Seeds {
  const key = (objectClass: bigint, parts: readonly Uint8Array[]) =>
    parts
      .reduce(
        (writer, part) => writer.sized16(part),
        new ByteWriter()
          .u64(7n)
          .u64(objectClass)
          .u64(0n)
          .sized16(utf8("id"))
          .sized16(utf8("label"))
          .u32(0b1001)
          .u32(0xfff),
      )
      .finish();
  const none = filled(0, 0);
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
  return {
    ready: new ByteWriter().u8(0).u32(6).u8(1).finish(),
    probe: new ByteWriter().u8(1).u16(2).sized16(utf8("execve")).u32(1).sized16(utf8("bpf")).u32(0).finish(),
    loaded: loaded.finish(),
    keys: new ByteWriter()
      .u8(3)
      .u16(2)
      .bytes(key(3n, [filled(256, 1), filled(3, 1), none, none]))
      .bytes(key(4n, [none, none, none, none]))
      .finish(),
    status: new ByteWriter().u8(5).u64(12n).finish(),
    plaintext: new ByteWriter().u8(8).bytes(utf8("a plaintext")).finish(),
    handle: new ByteWriter().u8(9).u64(23n).finish(),
  };
}

function frameSeeds(): Seeds {
  const frame = (id: number, op: keyof typeof OP, payload: Uint8Array) =>
    new ByteWriter()
      .u32(5 + payload.length)
      .u32(id)
      .u8(OP[op])
      .bytes(payload)
      .finish();
  const slotId = 3n;
  const keys = frame(1, "keys", encodeSlot(slotId));
  const data = filled(32, 1);
  const pss = { hash: 0x250n, mgf: 2n, saltLength: 32n };
  const oaep = { hash: 0x220n, mgf: 1n, label: utf8("label") };
  const unwrap: UnwrapRequest = {
    ...{ slotId, handle: 19n, mechanism: 0x210an, oaep: null, objectClass: "secret", keyType: 0x1fn, use: "decrypt" },
    ...{ where: "session", allowedMechanisms: [0x9n, 0x1n], label: "fresh", id: filled(2, 9), wrapped: filled(40, 2) },
  };
  const uses = encodeUses([
    { slotId, handle: 17n, use: "sign", accepts: ["raw-rsa"] },
    { slotId, handle: 18n, use: "decrypt", accepts: ["padding-oracle"] },
    { slotId, handle: 19n, use: "unwrap" },
  ]);
  const nothing = new Uint8Array();
  return {
    load: frame(1, "load", encodePath("/usr/lib/x.so")),
    sign: concatBytes(
      keys,
      frame(2, "sign", encodeSign({ slotId, handle: 17n, mechanism: 0x1041n, pss: null, data })),
      frame(3, "sign", encodeSign({ slotId, handle: 18n, mechanism: 0xdn, pss, data })),
      frame(9, "status", nothing),
    ),
    decrypt: concatBytes(
      keys,
      frame(2, "decrypt", encodeDecrypt({ slotId, handle: 17n, mechanism: 0x9n, oaep, ciphertext: data })),
      frame(3, "uses", uses),
      frame(4, "decrypt", encodeDecrypt({ slotId, handle: 18n, mechanism: 0x1n, oaep: null, ciphertext: data })),
      frame(5, "sign", encodeSign({ slotId, handle: 17n, mechanism: 0x3n, pss: null, data })),
    ),
    unwrap: concatBytes(
      keys,
      frame(2, "unwrap", encodeUnwrap(unwrap)),
      frame(3, "uses", uses),
      frame(4, "arm", nothing),
      frame(5, "unwrap", encodeUnwrap({ ...unwrap, label: "other", id: nothing, where: "token", wrapped: data })),
      frame(6, "unwrap", encodeUnwrap({ ...unwrap, mechanism: 0x9n, oaep, handle: 17n })),
      frame(7, "decrypt", encodeDecrypt({ slotId, handle: 101n, mechanism: 0x9n, oaep, ciphertext: data })),
    ),
  };
}
