import { ClientError } from "../../../agent/client/errors.ts";
import { readHello, readRefusal, readSession } from "../../../agent/client/messages.ts";
import { ReplySplitter } from "../../../agent/client/replies.ts";
import { expectTrue } from "../property.ts";

/** The client's errors are its own: its folder imports nothing of the project. */
export const isTyped = (error: unknown): boolean => error instanceof ClientError;

/** What a hostile agent sends: HELLO first, then refusals and sessions' numbers. The first byte says where the stream is cut. */
export function run(bytes: Uint8Array): void {
  const stream = bytes.subarray(1);
  const whole = repliesOf([stream.slice()]);
  const cut = Math.floor(((bytes[0] ?? 0) / 256) * stream.length);
  const parts = repliesOf([stream.slice(0, cut), stream.slice(cut)]);
  expectTrue(whole === parts, "native replies: the cut changes what is read");
}

function repliesOf(pieces: readonly Uint8Array[]): string {
  const splitter = new ReplySplitter();
  const seen: unknown[] = [];
  for (const piece of pieces) {
    splitter.push(piece);
    for (let reply = splitter.next(); reply !== null; reply = splitter.next()) {
      if (reply.reason !== 0) seen.push(readRefusal(reply).message);
      else seen.push(seen.length === 0 ? readHello(reply.payload) : readSession(reply.payload));
    }
  }
  return JSON.stringify(seen);
}
