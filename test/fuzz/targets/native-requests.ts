import { OPS } from "../../../agent/client/protocol.ts";
import { encodeReply, MAX_STRANGER_LENGTH, RequestSplitter } from "../../../agent/rpc/frames.ts";
import { isOperation, parseRequest, type Request } from "../../../agent/rpc/requests.ts";
import { concatBytes, joinBytes } from "../../../policy/index.ts";
import { decryptRequest, request, signRequest, u32 } from "../../support/native-client.ts";
import { expectSame, expectTrue } from "../property.ts";

/** A stream in two pieces gives the requests of the whole one, and each that is taken has one encoding. The first byte says where it is cut. */
export function run(bytes: Uint8Array): void {
  const stream = bytes.subarray(1);
  const whole = requestsOf([stream]);
  const cut = Math.floor(((bytes[0] ?? 0) / 256) * stream.length);
  const parts = requestsOf([stream.subarray(0, cut), stream.subarray(cut)]);
  expectSame(whole, parts, "native requests: the cut changes what is read");
}

function requestsOf(pieces: readonly Uint8Array[]): Uint8Array {
  let held = 0;
  const memory = {
    take: (bytes: number) => {
      held += bytes;
    },
    give: (bytes: number) => {
      held -= bytes;
    },
  };
  const splitter = new RequestSplitter(MAX_STRANGER_LENGTH, memory);
  const seen: Uint8Array[] = [];
  let isGreeted = false;
  for (const piece of pieces) {
    splitter.push(piece);
    isGreeted ||= splitter.greeting() !== null;
    if (!isGreeted) continue;
    for (let frame = splitter.next(); frame !== null; frame = splitter.next()) {
      memory.give(frame.size);
      const own = request(frame.id, frame.op, frame.payload);
      const again = encodeAgain(frame.id, parseRequest(frame));
      if (again !== null) expectSame(own, again, "native requests");
      seen.push(own, encodeReply(frame.id, 0, frame.payload));
    }
  }
  splitter.close();
  expectTrue(held === 0, "native requests: memory is given back");
  return joinBytes(seen);
}

/** By the tests' own encoder. Null for an op that nobody knows. */
function encodeAgain(id: number, asked: Request): Uint8Array | null {
  if (!isOperation(asked)) {
    if (asked.kind === "unknown") return null;
    const payload =
      asked.kind === "close" ? u32(asked.session) : asked.kind === "cancel" ? u32(asked.id) : new Uint8Array();
    return request(id, OPS[asked.kind], payload);
  }
  if (asked.kind === "sign") return signRequest(id, asked);
  const { session, key, mechanism, input } = asked;
  const use = decryptRequest(id, key, mechanism, input).slice(13);
  if (asked.kind === "decrypt") return request(id, OPS.decrypt, concatBytes(u32(session), use));
  const place = use.length - 4 - input.length;
  const arriving = concatBytes(Uint8Array.of(asked.arriving.length), new TextEncoder().encode(asked.arriving));
  return request(id, OPS.unwrap, concatBytes(u32(session), use.slice(0, place), arriving, use.slice(place)));
}
