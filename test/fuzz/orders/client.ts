import { type Reply, readHello, readRefusal, readSession } from "../../../agent/client/messages.ts";
import { OPS } from "../../../agent/client/protocol.ts";
import { ReplySplitter } from "../../../agent/client/replies.ts";
import { joinBytes, toHex } from "../../../policy/index.ts";
import { GREETING, request, u32 } from "../../support/native-client.ts";
import type { Asked, Crowd, Laws } from "./laws.ts";
import { Line } from "./line.ts";
import { LIMITS, type ScopeName } from "./scopes.ts";

/** One request of the stream, until it is answered. */
interface Sent {
  readonly op: keyof typeof OPS | "unknown";
  /** Null for what uses no key. */
  readonly asked: Asked | null;
  /** Of CANCEL: what stood in the stream before it under its id. */
  readonly cancelled: readonly Sent[];
  isAnswered: boolean;
}

const MOST_SESSIONS = 64;

/** One connection, and what has to become of each request that was sent on it. */
export class Client {
  readonly line = new Line((bytes) => this.#receive(bytes));
  readonly crowd: Crowd;
  readonly scope: ScopeName;
  readonly #laws: Laws;
  readonly #isCaller: boolean;
  readonly #now: () => number;
  readonly #replies = new ReplySplitter();
  /** Requests by id that are wholly sent and not answered. */
  readonly #open = new Map<number, Sent[]>();
  /** Bytes of requests that are not sent yet, and where each ends. */
  #outgoing: { readonly bytes: Uint8Array; readonly id: number; readonly sent: Sent }[] = [];
  #cut = 0;
  #isGreeted = false;
  /** Sessions that its stream has left open, each with the time by which it was open at the latest. */
  readonly #sessions = new Map<number, number>([[1, Number.POSITIVE_INFINITY]]);
  #lastSession = 1;
  #lastOpened = 0;
  /** It has broken the protocol or is gone: what is not answered need not be. */
  #mayClose = false;
  #hasLeft = false;
  /** Another process, or another program, by now. */
  isAnother = false;
  #mustClose = false;

  constructor(laws: Laws, scope: ScopeName, { isCaller, now }: { isCaller: boolean; now: () => number }) {
    this.#laws = laws;
    this.scope = scope;
    this.#isCaller = isCaller;
    this.#now = now;
    this.crowd = { most: scope === "signing" ? LIMITS.inFlight : MOST_SESSIONS, size: 0 };
    this.line.send(GREETING);
  }

  /** Puts a request behind those that wait to be sent. */
  ask(id: number, op: Sent["op"], payload: Uint8Array, asked: Asked | null = null): void {
    if (this.isGone) return;
    const sent: Sent = { op, asked, cancelled: op === "cancel" ? this.#under(payload) : [], isAnswered: false };
    const code = op === "unknown" ? 99 : OPS[op];
    if (asked !== null && !this.#isCaller) asked.forbidden = "for another than the caller";
    this.#outgoing.push({ bytes: request(id, code, payload), id, sent });
  }

  /** What SIGN, DECRYPT and UNWRAP may not use: a number that is none of an open session. */
  sessionError(session: number): string | null {
    if (this.#lastSession > MOST_SESSIONS) return null; // perhaps some were not opened, and others have their numbers
    const opened = this.#sessions.get(session);
    if (opened === undefined) return "in a session that is not open";
    const isOver = this.scope === "signing" && this.#now() - opened >= LIMITS.lifetimeMs;
    return isOver ? "in a session that is over" : null;
  }

  opens(id: number): void {
    this.ask(id, "open", new Uint8Array());
    this.#lastSession += 1;
    this.#sessions.set(this.#lastSession, Number.POSITIVE_INFINITY);
  }

  closes(id: number, session: number): void {
    this.ask(id, "close", u32(session));
    this.#sessions.delete(session);
  }

  /** Sends everything that waits, or so many bytes of it. */
  flush(most = Number.POSITIVE_INFINITY): void {
    const pieces: Uint8Array[] = [];
    for (let left = most; left > 0; ) {
      const [first] = this.#outgoing;
      if (first === undefined) break;
      const { bytes, id, sent } = first;
      const piece = bytes.subarray(this.#cut, this.#cut + Math.min(left, bytes.length));
      pieces.push(piece);
      left -= piece.length;
      this.#cut += piece.length;
      if (this.#cut < bytes.length) break;
      this.#cut = 0;
      this.#outgoing.shift();
      this.#expect(id, sent);
    }
    if (pieces.length > 0 && !this.#isGreeted) this.#mayClose = true;
    this.line.send(joinBytes(pieces));
  }

  becomesAnother(): void {
    this.isAnother = true;
    this.#mayClose = true;
  }

  /** Nobody is there, or somebody who sends nothing more. */
  get isGone(): boolean {
    return this.#hasLeft || this.line.destroyed;
  }

  /** Sends nothing more, not even what it had begun, and reads on. */
  hangUp(): void {
    this.#hasLeft = true;
    this.#outgoing = [];
    this.line.hangUp();
  }

  vanish(): void {
    this.#hasLeft = true;
    this.#mayClose = true;
    this.#outgoing = [];
    this.line.destroy();
  }

  /** Breaks the protocol, behind everything that was sent. */
  breaks(bytes: Uint8Array): void {
    if (this.isGone) return;
    this.flush();
    this.#mayClose = true;
    this.#mustClose = this.#isCaller;
    this.line.send(bytes);
  }

  /** Everything has come to its end. */
  verifyOver(): void {
    this.#laws.hold(
      this.line.destroyed || !this.#mustClose,
      `${this.scope}: a broken protocol does not end the connection`,
    );
    if (this.#mayClose) return;
    this.#laws.hold(!this.line.destroyed, `${this.scope}: a connection is closed that has done nothing wrong`);
    this.#laws.hold(
      [...this.#open.values()].every((sent) => sent.length === 0),
      `${this.scope}: a request is not answered`,
    );
  }

  #under(payload: Uint8Array): readonly Sent[] {
    const id = new DataView(payload.buffer, payload.byteOffset).getUint32(0);
    const waiting = this.#outgoing.filter((other) => other.id === id).map(({ sent }) => sent);
    return [...(this.#open.get(id) ?? []), ...waiting];
  }

  #expect(id: number, sent: Sent): void {
    const same = this.#open.get(id) ?? [];
    if (this.isAnother && sent.asked !== null) sent.asked.forbidden ??= "for a process that is another by now";
    // Perhaps its reply is on its way, and perhaps it is in work: then the connection is closed.
    if (id === 0 || same.length > 0) this.#mayClose = true;
    this.#open.set(id, [...same, sent]);
  }

  #receive(bytes: Uint8Array): void {
    try {
      this.#replies.push(bytes);
      for (let reply = this.#replies.next(); reply !== null; reply = this.#replies.next()) {
        if (reply.id === 0) this.#takeHello(reply);
        else this.#take(reply);
      }
    } catch (error) {
      this.#laws.hold(false, `${this.scope}: a reply that is none: ${error}`);
    }
  }

  #take(reply: Reply): void {
    // An id is used again only when its reply has left: the first is the one that is answered.
    const sent = this.#open.get(reply.id)?.shift();
    if (sent === undefined) {
      this.#laws.hold(this.#mayClose, `${this.scope}: a reply to no request, or a second one`);
      return;
    }
    sent.isAnswered = true;
    if (sent.asked !== null) this.#takeAnswer(sent.asked, reply);
    else if (reply.reason !== 0) readRefusal(reply);
    else this.#takeSmall(sent, reply);
  }

  #takeHello(reply: Reply): void {
    this.#laws.hold(!this.#isGreeted, `${this.scope}: is greeted twice`);
    this.#isGreeted = true;
    this.#laws.hold((reply.reason === 0) === this.#isCaller, `${this.scope}: greets another than its caller`);
    if (reply.reason !== 0) return;
    const { scope, session } = readHello(reply.payload);
    this.#laws.hold(scope === this.scope && session === 1, `${this.scope}: greets for another scope`);
    this.#sessions.set(1, this.#now());
  }

  #takeAnswer(asked: Asked, reply: Reply): void {
    asked.isAnswered = true;
    if (asked.hasResult) this.crowd.size -= 1;
    if (reply.reason !== 0) {
      readRefusal(reply);
      return;
    }
    this.#laws.hold(asked.forbidden === null, `${this.scope}: a result ${asked.forbidden}`);
    this.#laws.hold(asked.isRecorded && asked.hasResult, `${this.scope}: a result without record or token`);
    this.#laws.hold(toHex(reply.payload) === asked.result, `${this.scope}: the result of another request or key`);
  }

  #takeSmall({ op, cancelled }: Sent, reply: Reply): void {
    this.#laws.hold(this.#isCaller, `${this.scope}: answers another than its caller`);
    this.#laws.hold(
      cancelled.every(({ isAnswered }) => isAnswered),
      `${this.scope}: CANCEL leaves what it cancels unanswered`,
    );
    if (op === "hello") this.#laws.hold(readHello(reply.payload).scope === this.scope, "HELLO: of another scope");
    if (op !== "open") return;
    const session = readSession(reply.payload);
    this.#laws.hold(session > this.#lastOpened, `${this.scope}: a session's number is used again`);
    this.#lastOpened = session;
    if (this.#sessions.has(session)) this.#sessions.set(session, this.#now());
  }
}
