import type { BusAnswer } from "../support/tpm-bus.ts";

/** One way in which a command can end other than well. */
export interface TpmFault extends BusAnswer {
  readonly name: string;
  /** `again`: whoever sends the command may send it again, and libtss2 does. `code`: a well-formed refusal. `broken`: no TPM's answer. */
  readonly kind: "again" | "code" | "broken";
}

/** TPM_ST_NO_SESSIONS, and TPM_ST_RSP_COMMAND of a TPM 1.2, which a TPM 2.0 uses for TPM_RC_BAD_TAG. */
const [NO_SESSIONS, TPM_1_2] = [0x8001, 0x00c4];

function response(code: number, tag = NO_SESSIONS): Buffer {
  const bytes = Buffer.alloc(10);
  bytes.writeUInt16BE(tag, 0);
  bytes.writeUInt32BE(bytes.length, 2);
  bytes.writeUInt32BE(code, 6);
  return bytes;
}

function refusal(name: string, code: number, kind: TpmFault["kind"] = "code", tag = NO_SESSIONS): TpmFault {
  return { name: `${name} 0x${code.toString(16)}`, kind, obeyed: false, answer: () => response(code, tag) };
}

function broken(name: string, answer: TpmFault["answer"], hangsUp = true): TpmFault {
  return { name, kind: "broken", obeyed: true, answer, hangsUp };
}

function withField(real: Buffer, change: (bytes: Buffer) => void): Buffer {
  const bytes = Buffer.from(real);
  change(bytes);
  return bytes;
}

/** Each class of response codes (TPM 2.0 part 2, section 6.6), by one or two of its members, and what is no response at all. */
export const TPM_FAULTS: readonly TpmFault[] = [
  refusal("format zero, TPM_RC_FAILURE", 0x101),
  refusal("format zero, TPM_RC_NV_LOCKED", 0x148),
  refusal("format one, parameter", 0x1c4),
  refusal("format one, handle", 0x18b),
  refusal("format one, session", 0x98e),
  refusal("warning, TPM_RC_RETRY", 0x922, "again"),
  refusal("warning, TPM_RC_TESTING", 0x90a, "again"),
  refusal("warning, TPM_RC_YIELDED", 0x908, "again"),
  refusal("warning, TPM_RC_NV_RATE", 0x920),
  refusal("warning, TPM_RC_LOCKOUT", 0x921),
  refusal("warning, TPM_RC_CANCELED", 0x909),
  refusal("warning, TPM_RC_SESSION_MEMORY", 0x903),
  // libtss2 takes a response with the tag of a TPM 1.2 for none.
  refusal("TPM 1.2, TPM_RC_BAD_TAG", 0x1e, "broken", TPM_1_2),
  refusal("TPM 1.2, its own code", 0x3, "broken", TPM_1_2),
  refusal("resource manager", 0xb0143),
  refusal("resource manager for the TPM", 0xc0902),
  { name: "obeyed, answered TPM_RC_FAILURE", kind: "code", obeyed: true, answer: () => response(0x101) },
  broken("half of the answer", (real) => real.subarray(0, Math.max(4, real.length >> 1))),
  broken("an answer that ends in its header", (real) => real.subarray(0, 7)),
  broken("a size beyond the answer", (real) => withField(real, (bytes) => bytes.writeUInt32BE(real.length + 4096, 2))),
  broken("a size beyond all answers", (real) => withField(real, (bytes) => bytes.writeUInt32BE(0xffff_ffff, 2))),
  broken("the other tag", (real) => withField(real, (bytes) => bytes.writeUInt16BE(bytes.readUInt16BE(0) ^ 3, 0))),
  broken("success without a body", () => response(0), false),
  broken("a closed connection", () => Buffer.alloc(0)),
];

/** After these the connection takes no other command. "Success without a body" ESYS takes for an answer: what it misses it finds in what it sent. */
export const LOSING_FAULTS: readonly TpmFault[] = TPM_FAULTS.filter(
  ({ kind, name }) => kind === "broken" && name !== "success without a body",
);
