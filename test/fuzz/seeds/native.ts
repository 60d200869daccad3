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
    // Steps, as orders/players.ts reads them: below 3 an operation, 3 another request, 5 turns of the loop, 6 the token, 7 the log.
    "native-orders": {
      pipelined: Uint8Array.of(
        ...[0, 0, 0, 0, 0, 4, 0, 0, 0, 1, 0, 0, 16, 0, 0, 0],
        ...[15, 0, 31, 0, 5, 3, 3, 0, 0, 0, 0, 13, 0, 15, 0],
      ),
      cancelled: Uint8Array.of(
        ...[6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 15, 0, 5, 3, 3, 5, 0, 15, 0, 5, 1],
        ...[6, 2, 6, 6, 6, 1],
      ),
      decrypt: Uint8Array.of(
        ...[48, 0, 0, 0, 48, 0, 0, 0, 6, 0, 63, 0, 5, 3, 6, 6, 5, 1, 6, 1],
        ...[48, 0, 0, 0, 58, 30, 5, 1, 63, 0],
      ),
      failing: Uint8Array.of(...[6, 5, 48, 0, 0, 0, 63, 0, 5, 3, 48, 0, 0, 0, 63, 0, 5, 3, 48, 0, 0, 0, 63, 0, 5, 3]),
      withheld: Uint8Array.of(...[6, 0, 64, 0, 0, 0, 48, 0, 0, 0, 63, 0, 79, 0, 5, 3, 73, 1, 57, 1, 6, 1, 5, 3]),
      unwrap: Uint8Array.of(
        ...[64, 0, 0, 0, 79, 0, 5, 3, 80, 0, 0, 0, 95, 0, 5, 3],
        ...[9, 2, 64, 0, 0, 0, 79, 0, 5, 1, 6, 9],
      ),
      meanwhile: Uint8Array.of(
        ...[6, 0, 0, 0, 0, 0, 32, 0, 0, 0, 15, 0, 47, 0, 5, 3],
        ...[9, 1, 9, 0, 41, 0, 6, 1, 5, 2],
      ),
      strangers: Uint8Array.of(
        ...[96, 0, 0, 0, 111, 0, 5, 3, 112, 0, 0, 0, 127, 0, 5, 1],
        ...[0, 0, 0, 0, 12, 0, 15, 0],
      ),
      slow: Uint8Array.of(
        ...[0, 0, 0, 0, 11, 0, 15, 0, 5, 3, 0, 0, 0, 0, 15, 0, 11, 1],
        ...[7, 0, 16, 0, 0, 0, 31, 0, 29, 1],
      ),
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
