import { strangerReason } from "../broker/operation.ts";
import type { ScopeState } from "../broker/scope-state.ts";
import type { Peer } from "../identity.ts";
import { CallerRequests, type Requests } from "./caller.ts";
import { encodeGreeting, MAX_LENGTH, MAX_STRANGER_LENGTH, type RequestMemory, RequestSplitter } from "./frames.ts";
import { Outbox } from "./outbox.ts";
import { StrangerRequests } from "./stranger.ts";

/** What the door sees of a connection. */
export interface RpcChannel {
  readonly chunks: AsyncIterable<Uint8Array>;
  write(bytes: Uint8Array): Promise<void>;
  end(): void;
  destroy(): void;
}

/**
 * Serves one connection until the peer closes it or breaks the protocol. Never rejects: what goes wrong here ends this connection only.
 * What was begun at the token by then goes on to its end, and its result is dropped.
 */
export async function serveRpc(
  channel: RpcChannel,
  state: ScopeState,
  peer: Peer | null,
  memory: RequestMemory,
): Promise<void> {
  const stranger = strangerReason(state, peer);
  const splitter = new RequestSplitter(stranger === null ? MAX_LENGTH : MAX_STRANGER_LENGTH, memory);
  const outbox = new Outbox(channel);
  let requests: Requests | null = null;
  try {
    for await (const piece of channel.chunks) {
      splitter.push(piece);
      if (requests === null) {
        const offered = splitter.greeting();
        if (offered === null) continue;
        void outbox.send(encodeGreeting(offered)).catch(() => {}); // what is lost here is lost with the reply behind it
        requests =
          stranger === null
            ? await CallerRequests.open(state, peer, outbox, memory)
            : await StrangerRequests.open(state, peer, outbox, memory, stranger);
      }
      for (let frame = splitter.next(); frame !== null; frame = splitter.next()) await requests.take(frame);
    }
    await requests?.settled();
    channel.end();
  } catch {
    // A protocol violation or a lost peer: there is nothing to say to either.
    channel.destroy();
  } finally {
    splitter.close();
  }
}
