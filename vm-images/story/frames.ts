import { ByteWriter, utf8 } from "../../policy/index.ts";

// Requests of one p11-kit client (protocol version 0), as recorded bytes: they do not depend on who sends them, because
// the server's handles are virtual and count up from the same start on every connection.

const CALL = {
  initialize: 1,
  getSlotList: 4,
  openSession: 10,
  findInit: 26,
  find: 27,
  findFinal: 28,
  signInit: 42,
  sign: 43,
} as const;
const CKA_CLASS = 0x0;
const CKO_PRIVATE_KEY = 3n;
const CKM_ECDSA = 0x1041;
const CKF_SERIAL_SESSION = 4n;
const NULL_STRING = 0xffffffff;

/** The handles that a fresh connection of the agent's server gives out first. */
export interface FirstHandles {
  readonly slot: bigint;
  readonly session: bigint;
  readonly privateKey: bigint;
}

/** Version byte and frames of: initialise, open a session, find the private key, sign 32 bytes with CKM_ECDSA. */
export function signingFrames(digest: Uint8Array, handles: FirstHandles): Uint8Array[] {
  const handshake = utf8("PRIVATE-GNOME-KEYRING-PKCS11-PROTOCOL-V-1");
  const bodies: Uint8Array[] = [
    body(CALL.initialize, "ayyay", (writer) => writer.u8(1).sized32(handshake).u8(0).u8(1).sized32(new Uint8Array(1))),
    body(CALL.getSlotList, "yfu", (writer) => writer.u8(1).u32(16)),
    body(CALL.openSession, "uu", (writer) => writer.u64(handles.slot).u64(CKF_SERIAL_SESSION)),
    body(CALL.findInit, "uaA", (writer) =>
      writer.u64(handles.session).u32(1).u32(CKA_CLASS).u8(1).u32(8).u64(CKO_PRIVATE_KEY),
    ),
    body(CALL.find, "ufu", (writer) => writer.u64(handles.session).u32(4)),
    body(CALL.findFinal, "u", (writer) => writer.u64(handles.session)),
    body(CALL.signInit, "uMu", (writer) =>
      writer.u64(handles.session).u32(CKM_ECDSA).u32(NULL_STRING).u64(handles.privateKey),
    ),
    body(CALL.sign, "uayfy", (writer) => writer.u64(handles.session).u8(1).sized32(digest).u32(256)),
  ];
  return [Uint8Array.of(0), ...bodies.map((content, index) => frame(0x10 + index, content))];
}

function body(call: number, signature: string, write: (writer: ByteWriter) => ByteWriter): Uint8Array {
  return write(new ByteWriter().u32(call).sized32(utf8(signature))).finish();
}

function frame(code: number, content: Uint8Array): Uint8Array {
  const options = utf8("client");
  return new ByteWriter().u32(code).u32(options.length).u32(content.length).bytes(options).bytes(content).finish();
}

/** Call id of an answer; 0 is an error, whose CK_RV follows. */
export function answerOf(bytes: Uint8Array): { readonly call: number; readonly rv: bigint } {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes.length < 20) return { call: -1, rv: 0n };
  const start = 12 + view.getUint32(4);
  const call = view.getUint32(start);
  const signatureLength = view.getUint32(start + 4);
  const argument = start + 8 + signatureLength;
  return { call, rv: call === 0 && bytes.length >= argument + 8 ? view.getBigUint64(argument) : 0n };
}

/** The signature in the answer to C_Sign: `y` valid, then a byte string; `null` when it is none. */
export function signatureOf(bytes: Uint8Array): Uint8Array | null {
  if (answerOf(bytes).call !== CALL.sign) return null;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const argument = 12 + view.getUint32(4) + 8 + view.getUint32(12 + view.getUint32(4) + 4);
  if (view.getUint8(argument) !== 1) return null;
  const length = view.getUint32(argument + 1);
  return bytes.slice(argument + 5, argument + 5 + length);
}
