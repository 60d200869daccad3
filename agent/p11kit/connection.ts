import type { Policy } from "../../policy/index.ts";
import { strangerReason } from "../broker/operation.ts";
import { AgentError } from "../errors.ts";
import type { Peer } from "../identity.ts";
import type { Caller } from "../scopes/caller.ts";
import type { Channel } from "../scopes/channel.ts";
import type { OpenDoor, Visit } from "../scopes/door.ts";
import { type Answer, type Application, openApplication } from "./application.ts";
import { CALLS, callNamed } from "./calls.ts";
import { answerCall, answerStranger, checkSignature } from "./dispatch.ts";
import {
  type CallBody,
  encodeErrorReply,
  encodeReply,
  encodeSecretReply,
  type Frame,
  FrameSplitter,
  MAX_BODY,
  MAX_STRANGER_BODY,
  parseCallBody,
} from "./frame.ts";

/** The highest protocol version that is answered. */
export const MAX_VERSION = 2;

const OPEN_SESSION = callNamed("C_OpenSession").id;

/**
 * The PKCS #11 door. It serves one connection until the peer closes it, breaks the protocol or is no longer who connected. Requests are
 * answered one after the other; nothing more is read from the socket meanwhile.
 */
export const openP11kitDoor: OpenDoor = (state) => {
  return async (visit) => {
    const { channel, caller, memory } = visit;
    const stranger = strangerReason(state, caller.peer);
    const splitter = new FrameSplitter(stranger === null ? MAX_BODY : MAX_STRANGER_BODY, memory);
    const open = (version: number): Application => openApplication(state, caller.peer, version);
    try {
      let connection: Connection | null = null;
      for await (const chunk of channel.chunks) {
        splitter.push(chunk);
        connection ??= await greet(channel, splitter, { open, caller, stranger });
        if (connection !== null) await answerFrames(visit, splitter, connection);
      }
      channel.end();
    } catch {
      // A protocol violation or a lost peer. There is no reply for either: the stock client would not read it.
      channel.destroy();
    } finally {
      splitter.close();
    }
  };
};

interface Connection {
  readonly application: Application;
  readonly caller: Caller;
  /** Why the peer is refused; null for the scope's caller, which a narrowing can make one that is refused. */
  stranger: string | null;
  /** By which that was decided. */
  policy: Policy;
  calls: number;
}

async function greet(
  channel: Channel,
  splitter: FrameSplitter,
  { open, caller, stranger }: Pick<Connection, "caller" | "stranger"> & { open: (version: number) => Application },
): Promise<Connection | null> {
  const offered = splitter.version();
  if (offered === null) return null;
  channel.endGreeting(splitter.length);
  channel.takeLate();
  const application = open(Math.min(offered, MAX_VERSION));
  await channel.write(Uint8Array.of(application.version));
  return { application, caller, stranger, policy: application.state.live.current, calls: 0 };
}

/** Waits only where there is something to wait for: each promise more is a turn of the queue. */
async function answerFrames(
  { channel, turn }: Pick<Visit, "channel" | "turn">,
  splitter: FrameSplitter,
  connection: Connection,
): Promise<void> {
  for (let frame = splitter.next(); frame !== null; frame = splitter.next()) {
    const begins = turn();
    if (begins !== null) await begins;
    let request: CallBody;
    let answer: Answer | Promise<Answer>;
    try {
      request = parseCallBody(frame.body);
      checkSignature(request);
      const looked = lookAt(connection, request);
      verifyPeer(looked instanceof Promise ? await looked : looked);
      answer = answerRequest(connection, request);
    } finally {
      // Whoever reads an argument has a copy of it.
      frame.body.fill(0);
    }
    const reply = encodeAnswer(frame, request, answer instanceof Promise ? await answer : answer);
    try {
      await channel.write(reply.bytes);
    } finally {
      // The kernel has the bytes, or nobody will ever take them.
      if (reply.isSecret) reply.bytes.fill(0);
    }
  }
}

interface ReplyFrame {
  readonly bytes: Uint8Array;
  /** To be wiped once it is sent. */
  readonly isSecret: boolean;
}

/** A stranger is what it was: whatever it is now, it is refused. */
function lookAt({ caller, stranger }: Connection, { call }: CallBody): ReturnType<Caller["fresh"]> | "stranger" {
  if (stranger !== null) return "stranger";
  return call === OPEN_SESSION ? caller.look() : caller.fresh();
}

function answerRequest(connection: Connection, request: CallBody): Answer | Promise<Answer> {
  const { application } = connection;
  const stranger = strangerNow(connection);
  connection.calls += 1;
  return stranger === null
    ? answerCall(application, request)
    : answerStranger(application, request, stranger, connection.calls === 1);
}

/** A comparison, until the policy is narrowed. */
function strangerNow(connection: Connection): string | null {
  const { application, policy } = connection;
  const { state, peer } = application;
  if (policy === state.live.current) return connection.stranger;
  connection.policy = state.live.current;
  connection.stranger ??= strangerReason(state, peer);
  return connection.stranger;
}

function encodeAnswer({ code }: Frame, { call }: CallBody, answer: Answer): ReplyFrame {
  const signature = CALLS.get(call)?.response ?? "";
  switch (answer.kind) {
    case "error":
      return { bytes: encodeErrorReply(code, answer.rv), isSecret: false };
    case "values":
      return { bytes: encodeReply(code, call, signature, answer.values), isSecret: false };
    case "secret":
      return { bytes: encodeSecretReply(code, call, signature, answer.bytes), isSecret: true };
  }
}

/** @throws AgentError `ERR_FOREIGN_SENDER` when it is not the process and program any more that connected */
function verifyPeer(peer: Peer | "stranger" | null): void {
  if (peer === null) throw new AgentError("ERR_FOREIGN_SENDER", "peer", { expected: "who connected", got: "another" });
}
