import * as z from "zod";
import { fromBase64 } from "../../policy/index.ts";
import { fromHex, IronclawError, type PcrBank } from "../verifier.ts";

/** What a file is for; told by what is in it, never by its name. */
export const roles = ["report", "nonce", "challenge", "enrolment", "release", "anchors", "policy"] as const;
export type Role = (typeof roles)[number];

export interface GivenFile {
  readonly name: string;
  readonly role: Role;
  readonly bytes: Uint8Array;
}

/** More than any of them can be. */
export const maxFileBytes = 8 << 20;

/** A key that only one kind of document has. */
const marks: readonly (readonly [Role, RegExp])[] = [
  ["release", /"payloadType"\s*:/],
  ["anchors", /"releaseRoot"\s*:/],
  ["enrolment", /"akPublic"\s*:/],
  ["policy", /"minAssurance"\s*:/],
  ["challenge", /"nonce"\s*:/],
];

/**
 * Whatever is no known document is taken for the report: its parser then says what is wrong with it. Only sorts; every document is
 * read strictly later.
 */
export function roleOf(bytes: Uint8Array): Role {
  const text = asText(bytes);
  const known = text === null ? undefined : marks.find(([, mark]) => mark.test(text));
  if (known !== undefined) return known[0];
  return bytes.length === 32 || (text !== null && parseNonce(text) !== null) ? "nonce" : "report";
}

function asText(bytes: Uint8Array): string | null {
  if (bytes.length > 1 << 20) return null;
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    return null;
  }
}

/** 32 bytes as 64 hexadecimal digits or as base64; `null` for anything else. */
export function parseNonce(text: string): Uint8Array | null {
  const trimmed = text.trim();
  try {
    const nonce = /^[0-9a-fA-F]{64}$/.test(trimmed) ? fromHex(trimmed) : fromBase64(trimmed);
    return nonce.length === 32 ? nonce : null;
  } catch (error) {
    if (error instanceof IronclawError) return null;
    throw error;
  }
}

/** "0-7, 9, 11-14" as ascending indices; `null` for what is no such list. */
export function parsePcrList(text: string): readonly number[] | null {
  const found = new Set<number>();
  for (const part of text.split(",")) {
    const [, from, to] = /^\s*(\d{1,2})\s*(?:-\s*(\d{1,2}))?\s*$/.exec(part) ?? [];
    if (from === undefined) return null;
    const last = Number(to ?? from);
    if (last > 23 || last < Number(from)) return null;
    for (let pcr = Number(from); pcr <= last; pcr++) found.add(pcr);
  }
  return [...found].sort((a, b) => a - b);
}

/** The shortest text that `parsePcrList` reads as these. */
export function writePcrList(pcrs: readonly number[]): string {
  const runs: [number, number][] = [];
  for (const pcr of pcrs) {
    const last = runs.at(-1);
    if (last !== undefined && last[1] === pcr - 1) last[1] = pcr;
    else runs.push([pcr, pcr]);
  }
  return runs.map(([from, to]) => (from === to ? `${from}` : `${from}-${to}`)).join(", ");
}

export interface ReadChallenge {
  readonly nonce: string;
  readonly bank: PcrBank | null;
  readonly pcrs: readonly number[] | null;
}

const challengeSchema = z.object({
  nonce: z.string().max(128),
  bank: z.enum(["sha256", "sha384"]).optional(),
  pcrs: z.array(z.int().min(0).max(23)).max(24).optional(),
});

/** A challenge as the service answers it; `null` for what is none. */
export function readChallenge(bytes: Uint8Array): ReadChallenge | null {
  try {
    const parsed = challengeSchema.safeParse(JSON.parse(new TextDecoder().decode(bytes)));
    if (!parsed.success) return null;
    return { nonce: parsed.data.nonce, bank: parsed.data.bank ?? null, pcrs: parsed.data.pcrs ?? null };
  } catch {
    return null;
  }
}
