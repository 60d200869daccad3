import { connect, type Socket } from "node:net";
import { FORMS, type Form, OPS, REASONS } from "../../agent/client/protocol.ts";
import { ByteReader, ByteWriter, concatBytes, utf8 } from "../../policy/index.ts";

export const DIGEST = new Uint8Array(32).fill(0xd1);
export const ECDSA = 0x1041;
export const GREETING = utf8("IRPC\x01");

/** A request as RPC.md has it. */
export function request(id: number, op: number, payload: Uint8Array = new Uint8Array()): Uint8Array {
  return new ByteWriter()
    .u32(5 + payload.length)
    .u32(id)
    .u8(op)
    .bytes(payload)
    .finish();
}

interface SignFields {
  readonly session?: number;
  readonly key?: string;
  readonly mechanism?: number;
  readonly form?: Form;
  readonly input?: Uint8Array;
}

/** What SIGN carries. */
export function signPayload(fields: SignFields = {}): Uint8Array {
  const { session = 1, key = "release-ec", mechanism = ECDSA, form = "digest", input = DIGEST } = fields;
  const place = new ByteWriter().u32(session).u8(key.length).bytes(utf8(key)).u32(mechanism);
  return place.u8(FORMS[form]).sized32(input).finish();
}

export function signRequest(id: number, fields: SignFields = {}): Uint8Array {
  return request(id, OPS.sign, signPayload(fields));
}

export function decryptRequest(id: number, key: string, mechanism: number, input: Uint8Array): Uint8Array {
  const place = new ByteWriter().u32(1).u8(key.length).bytes(utf8(key)).u32(mechanism);
  return request(id, OPS.decrypt, place.sized32(input).finish());
}

export function u32(value: number): Uint8Array {
  return new ByteWriter().u32(value).finish();
}

export interface RawReply {
  readonly id: number;
  /** `done`, or the reason's name. */
  readonly reason: string;
  readonly payload: Uint8Array;
}

/** A client that sends what it is told, byte for byte. */
export class NativeClient {
  readonly socket: Socket;
  #bytes: Uint8Array = new Uint8Array();
  #wake: () => void = () => {};
  #ended = false;

  private constructor(socket: Socket) {
    this.socket = socket;
    socket.on("data", (piece: Buffer) => {
      this.#bytes = concatBytes(this.#bytes, piece);
      this.#wake();
    });
    socket.on("error", () => {});
    socket.on("close", () => {
      this.#ended = true;
      this.#wake();
    });
  }

  /** Connected; nothing is sent. */
  static async dial(path: string): Promise<NativeClient> {
    const socket = connect(path);
    const client = new NativeClient(socket);
    await new Promise((resolve, reject) => socket.once("connect", resolve).once("error", reject));
    return client;
  }

  /** Greeted; HELLO's reply is the next to read. */
  static async greeted(path: string): Promise<NativeClient> {
    const client = await NativeClient.dial(path);
    client.send(GREETING);
    const greeting = await client.take(5);
    if (Buffer.compare(greeting, GREETING) !== 0) throw new Error("another greeting");
    return client;
  }

  /** Greeted, and HELLO is read. */
  static async open(path: string): Promise<NativeClient> {
    const client = await NativeClient.greeted(path);
    await client.reply();
    return client;
  }

  send(...pieces: readonly Uint8Array[]): void {
    this.socket.write(concatBytes(...pieces));
  }

  /** Sends a whole stream as a client does: what follows the greeting only once that was answered, or the connection is over. */
  async replay(stream: Uint8Array): Promise<void> {
    this.send(stream.subarray(0, GREETING.length));
    if (stream.length >= GREETING.length) await this.some();
    this.send(stream.subarray(GREETING.length));
  }

  /** Resolves when something has come that nobody took, or the connection is over. */
  async some(): Promise<void> {
    while (this.#bytes.length === 0 && !this.#ended) await this.#changed();
  }

  async reply(): Promise<RawReply> {
    const length = new ByteReader(await this.take(4), "reply").u32("length");
    const reader = new ByteReader(await this.take(length), "reply");
    const id = reader.u32("id");
    const number = reader.u8("reason");
    const reason = Object.entries(REASONS).find(([, value]) => value === number)?.[0] ?? "done";
    return { id, reason, payload: reader.bytes(reader.remaining, "payload") };
  }

  async replies(count: number): Promise<readonly RawReply[]> {
    const replies: RawReply[] = [];
    while (replies.length < count) replies.push(await this.reply());
    return replies;
  }

  async take(length: number): Promise<Uint8Array> {
    while (this.#bytes.length < length) {
      if (this.#ended) throw new Error("the connection was closed");
      await this.#changed();
    }
    const taken = this.#bytes.slice(0, length);
    this.#bytes = this.#bytes.slice(length);
    return taken;
  }

  /** Resolves with everything that came and was not read, when the agent has closed the connection. */
  async closed(): Promise<Uint8Array> {
    while (!this.#ended) await this.#changed();
    return this.#bytes;
  }

  end(): void {
    this.socket.end();
  }

  #changed(): Promise<void> {
    return new Promise((resolve) => {
      this.#wake = resolve;
    });
  }
}
