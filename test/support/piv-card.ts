import { execFileSync } from "node:child_process";
import { constants, privateDecrypt } from "node:crypto";
import { readFileSync } from "node:fs";
import { createServer, type Server, type Socket } from "node:net";
import { join } from "node:path";
import { concatBytes } from "../../policy/index.ts";
import { encodeDer } from "./der-writer.ts";

// A smart card with the PIV application (NIST SP 800-73-4), as far as a PKCS#11 library asks for it: objects, one PIN and
// signatures with the keys 9A (RSA, after the PIN) and 9E (P-256, without). It speaks the protocol of the virtual reader
// vpcd: length-prefixed commands, of which one byte switches the card.

const AID = hex("a000000308000010000100");
const OK = hex("9000");
const NOT_FOUND = hex("6a82");
const ATR = hex("3b8001 81".replace(" ", ""));

interface CardKey {
  readonly reference: number;
  readonly object: string;
  readonly key: string;
  readonly certificate: Uint8Array;
}

/** What the card has done, for tests that must know that it was asked. */
export interface PivCards {
  readonly port: number;
  signatures(): number;
  close(): void;
}

function hex(text: string): Uint8Array {
  return Uint8Array.fromHex(text);
}

function tlv(tag: number, content: Uint8Array): Uint8Array {
  return encodeDer([{ tag, content }]);
}

/** Keys and self-signed certificates, made by OpenSSL below `directory`. */
function makeKeys(directory: string): readonly CardKey[] {
  const make = (reference: number, object: string, name: string, algorithm: readonly string[]): CardKey => {
    const key = join(directory, `${name}.pem`);
    const certificate = join(directory, `${name}.der`);
    const shape = [
      "-nodes",
      "-subj",
      `/CN=${name}`,
      "-days",
      "30",
      "-keyout",
      key,
      "-outform",
      "DER",
      "-out",
      certificate,
    ];
    execFileSync("openssl", ["req", "-x509", ...algorithm, ...shape], { stdio: "pipe" });
    return { reference, object, key, certificate: new Uint8Array(readFileSync(certificate)) };
  };
  return [
    make(0x9a, "5fc105", "piv-rsa", ["-newkey", "rsa:2048"]),
    make(0x9e, "5fc101", "piv-ec", ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]),
  ];
}

/** The data objects, by tag. */
function makeObjects(keys: readonly CardKey[]): ReadonlyMap<string, Uint8Array> {
  const fascn = hex("d4e739da739ced39ce739da1685a1082108ce73984119257fc");
  const guid = hex("00112233445566778899aabbccddeeff");
  const chuid = [tlv(0x30, fascn), tlv(0x34, guid), tlv(0x35, new TextEncoder().encode("20301231")), hex("3e00fe00")];
  return new Map([
    ["5fc102", tlv(0x53, concatBytes(...chuid))],
    ...keys.map(({ object, certificate }): [string, Uint8Array] => [
      object,
      tlv(0x53, concatBytes(tlv(0x70, certificate), hex("710100fe00"))),
    ]),
  ]);
}

class Application {
  readonly #keys: readonly CardKey[];
  readonly #objects: ReadonlyMap<string, Uint8Array>;
  readonly #pin: Uint8Array;
  #verified = false;
  #tries = 3;
  #chain: Uint8Array[] = [];
  #rest: Uint8Array = new Uint8Array(0);
  #expected = 256;
  signatures = 0;

  constructor(keys: readonly CardKey[], pin: string) {
    this.#keys = keys;
    this.#objects = makeObjects(keys);
    this.#pin = concatBytes(new TextEncoder().encode(pin), new Uint8Array(8 - pin.length).fill(0xff));
  }

  reset(): void {
    this.#verified = false;
    this.#chain = [];
  }

  answer(apdu: Uint8Array): Uint8Array {
    const [cla = 0, ins = 0, p1 = 0, p2 = 0, length = 0] = apdu;
    const data = apdu.length > 5 ? apdu.slice(5, 5 + length) : new Uint8Array(0);
    this.#expected = (apdu.length > 5 ? (apdu[5 + length] ?? 0) : length) || 256;
    if ((cla & 0x10) !== 0) {
      this.#chain.push(data);
      return OK;
    }
    const whole = concatBytes(...this.#chain, data);
    this.#chain = [];
    switch (ins) {
      case 0xa4:
        return this.#select(whole);
      case 0xcb:
        return this.#send(this.#objects.get(whole.slice(2).toHex()));
      case 0xc0:
        return this.#send(this.#rest);
      case 0x20:
        return this.#verify(whole);
      case 0x87:
        return this.#send(this.#sign(p1, p2, whole));
      default:
        return hex("6d00");
    }
  }

  #select(name: Uint8Array): Uint8Array {
    if (name.toHex() !== AID.slice(0, name.length).toHex() || name.length < 5) return NOT_FOUND;
    return this.#send(tlv(0x61, concatBytes(tlv(0x4f, AID.slice(5)), tlv(0x79, tlv(0x4f, AID.slice(0, 5))))));
  }

  /** As many bytes as were asked for; 61xx says that more are left, 00 for 256 and more. */
  #send(bytes: Uint8Array | undefined): Uint8Array {
    if (bytes === undefined) return NOT_FOUND;
    this.#rest = bytes.slice(this.#expected);
    const left = this.#rest.length > 255 ? 0 : this.#rest.length;
    return concatBytes(bytes.slice(0, this.#expected), this.#rest.length === 0 ? OK : Uint8Array.of(0x61, left));
  }

  #verify(pin: Uint8Array): Uint8Array {
    if (pin.length === 0) return this.#verified ? OK : Uint8Array.of(0x63, 0xc0 | this.#tries);
    this.#verified = this.#tries > 0 && pin.toHex() === this.#pin.toHex();
    this.#tries = this.#verified ? 3 : Math.max(0, this.#tries - 1);
    return this.#verified ? OK : Uint8Array.of(0x63, 0xc0 | this.#tries);
  }

  /** GENERAL AUTHENTICATE: 7C { 82 empty, 81 what to sign } -> 7C { 82 signature }. */
  #sign(algorithm: number, reference: number, request: Uint8Array): Uint8Array | undefined {
    const key = this.#keys.find((one) => one.reference === reference);
    const size = algorithm === 0x07 ? 256 : 32;
    if (key === undefined || (reference === 0x9a && !this.#verified)) return undefined;
    const input = request.slice(-size);
    this.signatures += 1;
    const pem = readFileSync(key.key);
    const signature =
      algorithm === 0x07
        ? privateDecrypt({ key: pem, padding: constants.RSA_NO_PADDING }, input)
        : execFileSync("openssl", ["pkeyutl", "-sign", "-inkey", key.key], { input });
    return tlv(0x7c, tlv(0x82, new Uint8Array(signature)));
  }
}

/**
 * Cards wait on loopback for the virtual reader, which connects to them: it has two slots, on a port and the next one, and
 * does not survive an empty one. The second card is a copy of the first with a PIN of its own state.
 */
export async function insertPivCards(directory: string, pin: string): Promise<PivCards> {
  const keys = makeKeys(directory);
  const cards = [new Application(keys, pin), new Application(keys, pin)];
  const servers = await adjacentPorts();
  const sockets = new Set<Socket>();
  for (const [at, card] of cards.entries())
    servers[at]?.on("connection", (socket) => {
      sockets.add(socket);
      serve(socket, card);
    });
  return {
    port: portOf(servers[0]),
    signatures: () => cards.reduce((sum, card) => sum + card.signatures, 0),
    close: () => {
      for (const socket of sockets) socket.destroy();
      for (const server of servers) server.close();
    },
  };
}

async function adjacentPorts(): Promise<readonly Server[]> {
  for (;;) {
    const first = await listening(0);
    const second = await listening(portOf(first) + 1).catch(() => null);
    if (second !== null) return [first, second];
    first.close();
  }
}

function listening(port: number): Promise<Server> {
  const server = createServer();
  return new Promise((resolve, reject) => {
    server.once("error", reject);
    server.listen(port, "127.0.0.1", () => resolve(server));
  });
}

function portOf(server: Server | undefined): number {
  const address = server?.address() ?? null;
  if (address === null || typeof address === "string") throw new Error("the card has no port");
  return address.port;
}

function serve(socket: Socket, card: Application): void {
  let buffer: Uint8Array = new Uint8Array(0);
  const send = (bytes: Uint8Array): void =>
    void socket.write(concatBytes(Uint8Array.of(bytes.length >> 8, bytes.length & 255), bytes));
  socket.on("error", () => undefined);
  socket.on("data", (bytes: Uint8Array) => {
    buffer = concatBytes(buffer, bytes);
    for (;;) {
      const [high = 0, low = 0] = buffer;
      const length = (high << 8) | low;
      if (buffer.length < 2 + length || buffer.length < 2) return;
      const message = buffer.slice(2, 2 + length);
      buffer = buffer.slice(2 + length);
      const control = length === 1 ? message[0] : null;
      if (control === 4) send(ATR);
      else if (control === 0 || control === 1 || control === 2) card.reset();
      else send(card.answer(message));
    }
  });
}
