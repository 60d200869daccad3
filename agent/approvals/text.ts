import { PolicyError, utf8 } from "../../policy/index.ts";

/** The namespace of the signatures, and the first line of what is signed. */
export const APPROVAL_NAMESPACE = "ironclaw-approval@1";
/** Of a text, in bytes. */
export const MAX_APPROVAL_TEXT = 4096;

interface Common {
  /** TPM Name of the attestation key in hexadecimal. */
  readonly machine: string;
  /** 32 bytes in hexadecimal. */
  readonly boot: string;
  /** `sha256:<hex>` */
  readonly policy: string;
  readonly serial: string;
  /** 8 bytes in hexadecimal. */
  readonly request: string;
  readonly scope: string;
  readonly caller: string;
}

/** One use of one key over one input. */
export interface OperationText extends Common {
  readonly for: "operation";
  readonly key: string;
  /** `sha256:<hex>` */
  readonly "key-spki": string;
  readonly operation: string;
  readonly mechanism: string;
  readonly parameters: string;
  /** `sha256:<hex>` */
  readonly input: string;
  readonly expires: string;
}

/** Whatever a scope allows its caller, for a while. */
export interface WindowText extends Common {
  readonly for: "window";
  readonly keys: string;
  readonly mechanisms: string;
  readonly from: string;
  readonly until: string;
}

/** What an approver reads and signs, line by line: APPROVALS.md. */
export type ApprovalText = OperationText | WindowText;

const COMMON = ["machine", "boot", "policy", "serial", "request", "scope", "caller"] as const;
const LINES = {
  operation: [...COMMON, "key", "key-spki", "operation", "mechanism", "parameters", "input", "expires"],
  window: [...COMMON, "keys", "mechanisms", "from", "until"],
} as const;
type LineName = (typeof LINES)["operation" | "window"][number];

const DIGEST = /^sha256:[0-9a-f]{64}$/;
const INSTANT = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$/;
/** Those whose form is known; all others are any text. */
const FORMS: Readonly<Partial<Record<LineName, RegExp>>> = {
  machine: /^000[b-d](?:[0-9a-f]{2}){32,64}$/,
  boot: /^[0-9a-f]{64}$/,
  policy: DIGEST,
  serial: /^[1-9][0-9]{0,15}$/,
  request: /^[0-9a-f]{16}$/,
  "key-spki": DIGEST,
  operation: /^(?:sign|decrypt|unwrap)$/,
  input: DIGEST,
  expires: INSTANT,
  from: INSTANT,
  until: INSTANT,
};

/** The bytes that are signed. @throws TypeError for a value that its line cannot have, or a text that is too long */
export function encodeApprovalText(text: ApprovalText): Uint8Array {
  const values: Readonly<Partial<Record<LineName, string>>> = text;
  const lines = LINES[text.for].map((name) => {
    const value = values[name] ?? "";
    if (!fits(name, value)) throw new TypeError(`approval text: ${name} cannot be written`);
    return `${name}: ${escapeValue(value)}\n`;
  });
  const bytes = utf8([`${APPROVAL_NAMESPACE}\nfor: ${text.for}\n`, ...lines].join(""));
  if (bytes.length > MAX_APPROVAL_TEXT) throw new TypeError(`approval text: ${bytes.length} bytes`);
  return bytes;
}

/**
 * Reads a text, for whoever shows it. Establishes nothing but its form: not that it is a machine's, nor that it waits there.
 * @throws PolicyError ERR_SIGNATURE_MALFORMED for every other bytes
 */
export function parseApprovalText(bytes: Uint8Array): ApprovalText {
  const whole = bytes.length <= MAX_APPROVAL_TEXT ? String.fromCharCode(...bytes) : "";
  if (!whole.endsWith("\n")) throw malformed("end");
  const [first, second = "", ...lines] = whole.split("\n");
  const kind = second.slice("for: ".length);
  if (first !== APPROVAL_NAMESPACE || (kind !== "operation" && kind !== "window")) throw malformed("first lines");
  const text: Record<string, string> = { for: kind };
  for (const [index, name] of LINES[kind].entries()) text[name] = readValue(name, lines[index] ?? "");
  const parsed = text as unknown as ApprovalText; // every line of its kind is there: the loop has just put it
  if (String.fromCharCode(...encodeApprovalText(parsed)) !== whole) throw malformed("end");
  return parsed;
}

function readValue(name: LineName, line: string): string {
  const start = `${name}: `;
  const value = line.startsWith(start) ? unescapeValue(line.slice(start.length)) : null;
  if (value === null || !fits(name, value)) throw malformed(name);
  return value;
}

function fits(name: LineName, value: string): boolean {
  return value !== "" && value.isWellFormed() && (FORMS[name]?.test(value) ?? true);
}

/** Printable ASCII but for the backslash stands for itself; of everything else each byte of its UTF-8 form is `\xNN`. */
function escapeValue(value: string): string {
  return Array.from(utf8(value), (byte) =>
    byte >= 0x20 && byte < 0x7f && byte !== 0x5c
      ? String.fromCharCode(byte)
      : `\\x${byte.toString(16).padStart(2, "0")}`,
  ).join("");
}

/** Null for what `escapeValue` never writes. */
function unescapeValue(text: string): string | null {
  if (!/^(?:[\x20-\x5b\x5d-\x7e]|\\x[0-9a-f]{2})*$/.test(text)) return null;
  const bytes = [...text.matchAll(/\\x(..)|(.)/g)].map(([, hex, plain]) =>
    hex === undefined ? (plain ?? "").charCodeAt(0) : Number.parseInt(hex, 16),
  );
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(Uint8Array.from(bytes));
  } catch {
    return null;
  }
}

function malformed(where: string): PolicyError {
  return new PolicyError("ERR_SIGNATURE_MALFORMED", `approval text ${where}`, {
    expected: "the text of one approval (APPROVALS.md)",
    got: "another text",
  });
}
