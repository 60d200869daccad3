import * as z from "zod";
import { SealError } from "./errors.ts";

const responseCode = z.string().regex(/^0x[0-9a-f]{8}$/);
const commandAnswer = z
  .strictObject({
    command: z.string().min(1).max(64),
    rc: responseCode,
    text: z.string().max(512),
  })
  .readonly();

const answerSchema = z.discriminatedUnion("kind", [
  z.strictObject({ kind: z.literal("released"), ms: z.int().nonnegative() }),
  z.strictObject({
    kind: z.literal("refused"),
    answers: z.array(commandAnswer).min(1).max(8),
  }),
  z.strictObject({ kind: z.literal("discarded") }),
  z.strictObject({
    kind: z.literal("failed"),
    command: z.string().min(1).max(64),
    rc: responseCode,
    text: z.string().max(512),
  }),
]);

/** A command's response code, the TPM's own, and its text in libtss2's words. */
export type TpmAnswer = z.infer<typeof commandAnswer>;

/**
 * What the unsealer did. `released`: every sink has the secret; `ms` since its start. `refused`: the TPM said no, `answers` are its words.
 * `discarded`: the TPM would have released, nothing was written. `failed`: the attempt did not get as far as an answer.
 */
export type UnsealAnswer = z.infer<typeof answerSchema>;

/** Reads the unsealer's one line. @throws SealError ERR_UNSEALER; the message does not quote the line */
export function parseUnsealAnswer(stdout: Uint8Array): UnsealAnswer {
  const text = new TextDecoder().decode(stdout);
  const result = answerSchema.safeParse(text.indexOf("\n") === text.length - 1 ? parse(text) : undefined);
  if (result.success) return result.data;
  throw new SealError("ERR_UNSEALER", "unsealer answer", {
    expected: "one JSON line of a known kind",
    got: `${stdout.length} bytes`,
  });
}

const WAITING = '{"kind":"waiting"}\n';

/** Whether that is what an unsealer says instead of an answer: all is done, and it waits for the word. */
export function isWaiting(line: Uint8Array): boolean {
  return new TextDecoder().decode(line) === WAITING;
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/**
 * Whether the kept private area does not load (TPM2_Clear, a damaged store), so that the package's blob has to be imported again: an
 * answer of TPM2_Load about its first parameter (TPM_RC_FMT1 | TPM_RC_P | TPM_RC_1), whatever is wrong with it.
 */
export function isStaleImport(answer: UnsealAnswer): boolean {
  return answer.kind === "failed" && answer.command === "TPM2_Load" && (Number(answer.rc) & ~0x3f) === 0x1c0;
}
