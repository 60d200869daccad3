import { FORMS, OPS, REASONS } from "../../../agent/client/protocol.ts";
import { encodeReply } from "../../../agent/rpc/frames.ts";
import { ByteWriter, concatBytes, utf8 } from "../../../policy/index.ts";
import { decryptRequest, GREETING, request, signRequest, u32 } from "../../support/native-client.ts";
import { filled, type Seeds } from "./made.ts";

const text = (writer: ByteWriter, value: string) => writer.u8(value.length).bytes(utf8(value));

/** The native door's two directions. */
export function nativeSeeds(): Record<string, Seeds> {
  const cut = (at: number, ...frames: readonly Uint8Array[]) => concatBytes(Uint8Array.of(at), GREETING, ...frames);
  const unwrap = text(text(new ByteWriter().u32(1), "kek").u32(0x9), "arrived").sized32(filled(64, 4));
  const hello = text(new ByteWriter(), "release-signing").u32(1).u32(262_144).u16(64).u16(64).u8(1);
  text(hello, "release-ec").u8(1).sized32(filled(91, 3)).u8(2);
  for (const [type, form] of [
    [0x1041, FORMS.digest],
    [0x9, FORMS.block],
  ] as const)
    text(hello.u32(type).u8(form), "sha256").sized32(filled(2, 1));
  return {
    "native-requests": {
      sign: cut(0x80, signRequest(1), signRequest(2, { mechanism: 0x1044, form: "message", input: utf8("a message") })),
      sessions: cut(
        0x20,
        request(1, OPS.open),
        request(2, OPS.close, u32(2)),
        request(3, OPS.hello),
        request(4, OPS.ping),
      ),
      decrypt: cut(0x40, decryptRequest(7, "vault", 0x9, filled(256, 5)), request(8, OPS.cancel, u32(7))),
      unwrap: cut(0, request(9, OPS.unwrap, unwrap.finish()), request(10, 99, filled(5, 5))),
    },
    "native-replies": {
      hello: cut(0x80, encodeReply(0, 0, hello.finish()), encodeReply(1, 0, u32(2))),
      refused: cut(0x10, encodeReply(0, REASONS["not-allowed"], new Uint8Array())),
      reasons: cut(
        0x60,
        encodeReply(0, 0, hello.finish()),
        encodeReply(1, REASONS.rate, u32(1000)),
        encodeReply(2, REASONS["approval-needed"], text(new ByteWriter(), "pending-7").finish()),
        encodeReply(3, 200, filled(9, 9)),
      ),
    },
  };
}
