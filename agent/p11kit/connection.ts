import { once } from "node:events";
import type { Socket } from "node:net";
import { strangerReason } from "../broker/operation.ts";
import type { ScopeState } from "../broker/scope-state.ts";
import type { Peer } from "../identity.ts";
import { type Answer, type Application, openApplication } from "./application.ts";
import { CALLS } from "./calls.ts";
import { answerCall, answerStranger, checkSignature } from "./dispatch.ts";
import {
  encodeErrorReply,
  encodeReply,
  encodeSecretReply,
  type Frame,
  FrameSplitter,
  MAX_BODY,
  MAX_STRANGER_BODY,
  parseCallBody,
  type ReceiveMemory,
} from "./frame.ts";

/** The highest protocol version that is answered. */
export const MAX_VERSION = 2;

/**
 * Serves one connection until the peer closes it or breaks the protocol. Requests are answered one after the other; nothing more is read
 * from the socket meanwhile than what its buffer holds. Never rejects: what goes wrong here ends this connection only.
 */
export async function serveConnection(
  socket: Socket,
  state: ScopeState,
  peer: Peer | null,
  memory: ReceiveMemory,
): Promise<void> {
  const isCaller = strangerReason(state, peer) === null;
  const splitter = new FrameSplitter(isCaller ? MAX_BODY : MAX_STRANGER_BODY, memory);
  try {
    let connection: Connection | null = null;
    for await (const chunk of socket as AsyncIterable<Buffer>) {
      splitter.push(chunk);
      connection ??= await greet(socket, splitter, (version) => openApplication(state, peer, version));
      if (connection !== null) await answerFrames(socket, splitter, connection);
    }
    socket.end();
  } catch {
    // A protocol violation or a lost peer. There is no reply for either: the stock client would not read it.
    socket.destroy();
  } finally {
    splitter.close();
  }
}

interface Connection {
  readonly application: Application;
  /** Why the peer is refused; null for the scope's caller. */
  readonly stranger: string | null;
  calls: number;
}

async function greet(
  socket: Socket,
  splitter: FrameSplitter,
  open: (version: number) => Application,
): Promise<Connection | null> {
  const offered = splitter.version();
  if (offered === null) return null;
  const application = open(Math.min(offered, MAX_VERSION));
  await send(socket, Uint8Array.of(application.version));
  return { application, stranger: strangerReason(application.state, application.peer), calls: 0 };
}

async function answerFrames(socket: Socket, splitter: FrameSplitter, connection: Connection): Promise<void> {
  for (let frame = splitter.next(); frame !== null; frame = splitter.next()) {
    const reply = await answerFrame(connection, frame);
    if (reply.isSecret) await sendSecret(socket, reply.bytes);
    else await send(socket, reply.bytes);
  }
}

interface ReplyFrame {
  readonly bytes: Uint8Array;
  /** To be wiped once it is sent. */
  readonly isSecret: boolean;
}

async function answerFrame(connection: Connection, { code, body }: Frame): Promise<ReplyFrame> {
  const { application, stranger } = connection;
  const request = parseCallBody(body);
  checkSignature(request);
  connection.calls += 1;
  const answer: Answer =
    stranger === null
      ? await answerCall(application, request)
      : await answerStranger(application, request, stranger, connection.calls === 1);
  const signature = CALLS.get(request.call)?.response ?? "";
  switch (answer.kind) {
    case "error":
      return { bytes: encodeErrorReply(code, answer.rv), isSecret: false };
    case "values":
      return { bytes: encodeReply(code, request.call, signature, answer.values), isSecret: false };
    case "secret":
      return { bytes: encodeSecretReply(code, request.call, signature, answer.bytes), isSecret: true };
  }
}

/** Waits until the kernel has the bytes, or nobody will ever take them, and wipes them. */
async function sendSecret(socket: Socket, bytes: Uint8Array): Promise<void> {
  try {
    if (socket.destroyed) throw new Error("connection closed");
    await new Promise<void>((resolve, reject) => {
      socket.write(bytes, (error) => (error ? reject(error) : resolve()));
    });
  } finally {
    bytes.fill(0);
  }
}

/** Waits for a slow reader instead of keeping its replies. */
async function send(socket: Socket, bytes: Uint8Array): Promise<void> {
  if (socket.destroyed) throw new Error("connection closed");
  if (socket.write(bytes)) return;
  const stop = new AbortController();
  try {
    await Promise.race([
      once(socket, "drain", { signal: stop.signal }),
      once(socket, "close", { signal: stop.signal }),
    ]);
  } finally {
    stop.abort();
  }
}
