import {
  encodeReply,
  FrameSplitter,
  MAX_STRANGER_BODY,
  parseCallBody,
  ReceiveMemory,
} from "../../../agent/p11kit/frame.ts";
import { expectTrue } from "../property.ts";

/** A stream in two pieces gives the frames of the whole one; the first byte says where it is cut. */
export function run(bytes: Uint8Array): void {
  const stream = bytes.subarray(1);
  const whole = framesOf([stream]);
  const cut = Math.floor(((bytes[0] ?? 0) / 256) * stream.length);
  expectTrue(
    framesOf([stream.subarray(0, cut), stream.subarray(cut)]) === whole,
    "frames: the cut changes what is read",
  );
}

function framesOf(chunks: readonly Uint8Array[]): string {
  const splitter = new FrameSplitter(MAX_STRANGER_BODY, new ReceiveMemory(1 << 20));
  const seen: string[] = [];
  let version: number | null = null;
  for (const chunk of chunks) {
    splitter.push(chunk.slice()); // it wipes what it has given
    version ??= splitter.version();
    for (let frame = splitter.next(); frame !== null; frame = splitter.next()) {
      const { call, signature, values } = parseCallBody(frame.body);
      encodeReply(frame.code, call, signature, values);
      seen.push(`${frame.code} ${call} ${signature} ${values.length}`);
    }
  }
  splitter.close();
  return `${version} ${seen.join()}`;
}
