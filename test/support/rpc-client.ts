import { connect, type Socket } from "node:net";
import { CALLS, callNamed } from "../../agent/p11kit/calls.ts";
import { ByteReader, ByteWriter, concatBytes, utf8 } from "../../policy/index.ts";

/** `I`: the native protocol, whose greeting has five bytes. */
const NATIVE_MAGIC = 0x49;
export const HANDSHAKE = utf8("PRIVATE-GNOME-KEYRING-PKCS11-PROTOCOL-V-1");

/** `ay` with bytes. */
export function byteArray(bytes: Uint8Array): Uint8Array {
  return new ByteWriter().u8(1).sized32(bytes).finish();
}

export function ulongs(...values: readonly bigint[]): Uint8Array {
  return values.reduce((writer, value) => writer.u64(value), new ByteWriter()).finish();
}

export function u32(value: number): Uint8Array {
  return new ByteWriter().u32(value).finish();
}

export const INITIALIZE_VALUES = concatBytes(byteArray(HANDSHAKE), Uint8Array.of(0), byteArray(Uint8Array.of(0)));

/** A request as the stock client sends it. */
export function requestFrame(code: number, name: string, ...values: readonly Uint8Array[]): Uint8Array {
  const row = callNamed(name);
  return rawFrame(
    code,
    new ByteWriter()
      .u32(row.id)
      .sized32(utf8(row.request))
      .bytes(concatBytes(...values))
      .finish(),
  );
}

export function rawFrame(code: number, body: Uint8Array, options = utf8("client")): Uint8Array {
  return new ByteWriter().u32(code).u32(options.length).u32(body.length).bytes(options).bytes(body).finish();
}

export interface Reply {
  readonly code: number;
  /** null: an ERROR reply. */
  readonly call: string | null;
  /** CK_RV; 0 unless this is an ERROR reply. */
  readonly rv: bigint;
  readonly values: Uint8Array;
}

/** A client that sends what it is told, byte for byte. */
export interface RawClient {
  send(bytes: Uint8Array): void;
  /** Sends a whole stream as a client does: what follows the greeting only once that was answered, or the connection is over. */
  replay(stream: Uint8Array): Promise<void>;
  /** The next reply; rejects when the connection ends before. */
  reply(): Promise<Reply>;
  /** `requestFrame` and its reply. */
  call(name: string, ...values: readonly Uint8Array[]): Promise<Reply>;
  /** Resolves with everything that came when the server has closed the connection. */
  closed(): Promise<Uint8Array>;
  end(): void;
}

export async function openRawClient(path: string, version: number | null = 0): Promise<RawClient> {
  const socket = await connected(path);
  const inbox = new Inbox(socket);
  let code = 0x10;
  if (version !== null) {
    socket.write(Uint8Array.of(version));
    await inbox.take(1);
  }
  const client: RawClient = {
    send: (bytes) => socket.write(bytes),
    replay: async (stream) => {
      const greeting = stream[0] === NATIVE_MAGIC ? 5 : 1;
      socket.write(stream.subarray(0, greeting));
      if (stream.length >= greeting) await inbox.some();
      socket.write(stream.subarray(greeting));
    },
    reply: () => readReply(inbox),
    call: (name, ...values) => {
      socket.write(requestFrame(code, name, ...values));
      code += 1;
      return readReply(inbox);
    },
    closed: () => inbox.closed(),
    end: () => socket.end(),
  };
  return client;
}

async function readReply(inbox: Inbox): Promise<Reply> {
  const header = new ByteReader(await inbox.take(12), "reply header");
  const code = header.u32("code");
  const options = header.u32("options length");
  const body = new ByteReader(await inbox.take(header.u32("body length")), "reply body");
  if (options !== 0) throw new Error("a reply with options");
  const call = body.u32("call");
  const signature = new TextDecoder().decode(body.sized32("signature", 64));
  const values = body.bytes(body.remaining, "values");
  const expected = call === 0 ? "u" : CALLS.get(call)?.response;
  if (signature !== expected) throw new Error(`signature ${signature} instead of ${expected}`);
  if (call === 0) return { code, call: null, rv: new ByteReader(values, "rv").u64("rv"), values };
  return { code, call: CALLS.get(call)?.name ?? "?", rv: 0n, values };
}

function connected(path: string): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connect(path);
    socket.once("connect", () => resolve(socket));
    socket.once("error", reject);
  });
}

class Inbox {
  readonly #socket: Socket;
  #bytes: Uint8Array = new Uint8Array();
  #wake: () => void = () => {};
  #ended = false;

  constructor(socket: Socket) {
    this.#socket = socket;
    socket.on("data", (chunk: Buffer) => {
      this.#bytes = concatBytes(this.#bytes, chunk);
      this.#wake();
    });
    socket.on("error", () => {});
    socket.on("close", () => {
      this.#ended = true;
      this.#wake();
    });
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

  /** Resolves when something has come that nobody took, or the connection is over. */
  async some(): Promise<void> {
    while (this.#bytes.length === 0 && !this.#ended) await this.#changed();
  }

  async closed(): Promise<Uint8Array> {
    while (!this.#ended) await this.#changed();
    this.#socket.destroy();
    return this.#bytes;
  }

  #changed(): Promise<void> {
    return new Promise((resolve) => {
      this.#wake = resolve;
    });
  }
}
