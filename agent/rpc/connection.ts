import { strangerReason } from "../broker/operation.ts";
import type { Channel } from "../scopes/channel.ts";
import type { OpenDoor, Visit } from "../scopes/door.ts";
import { CallerRequests } from "./caller.ts";
import { encodeGreeting, MAX_LENGTH, MAX_STRANGER_LENGTH, RequestSplitter, type Requests } from "./frames.ts";
import { Outbox } from "./outbox.ts";
import { StrangerRequests } from "./stranger.ts";

/**
 * The native door of a scope. It serves one connection until the peer closes it, breaks the protocol or is no longer who connected. Never
 * rejects: what goes wrong ends this connection only. What was begun at the token by then goes on to its end, and its result is dropped.
 */
export const openRpcDoor: OpenDoor = (state) => async (visit) => {
  const { channel, caller, memory } = visit;
  const stranger = strangerReason(state, caller.peer);
  const splitter = new RequestSplitter(stranger === null ? MAX_LENGTH : MAX_STRANGER_LENGTH, memory);
  const outbox = new Outbox(channel);
  const requests =
    stranger === null ? new CallerRequests(state, visit, outbox) : new StrangerRequests(state, visit, outbox, stranger);
  try {
    await serve(visit, splitter, outbox, requests);
    channel.end();
  } catch {
    // A protocol violation or a lost peer: there is nothing to say to either.
    channel.destroy();
  } finally {
    splitter.close();
  }
};

async function serve(
  { channel, turn }: Visit,
  splitter: RequestSplitter,
  outbox: Outbox,
  requests: Requests,
): Promise<void> {
  let isGreeted = false;
  for await (const piece of channel.chunks) {
    splitter.push(piece);
    isGreeted ||= await greet(channel, splitter, outbox, requests);
    if (!isGreeted) continue;
    for (let frame = splitter.next(); frame !== null; frame = splitter.next()) {
      const begins = turn();
      if (begins !== null) await begins;
      await requests.take(frame);
    }
  }
  await requests.settled();
}

async function greet(
  channel: Channel,
  splitter: RequestSplitter,
  outbox: Outbox,
  requests: Requests,
): Promise<boolean> {
  const offered = splitter.greeting();
  if (offered === null) return false;
  channel.endGreeting(splitter.length);
  await Promise.all([outbox.send(encodeGreeting(offered)), requests.greet()]);
  return true;
}
