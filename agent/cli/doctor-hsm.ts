import { execFile } from "node:child_process";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";
import * as z from "zod";
import { parseJson, utf8 } from "../../policy/index.ts";
import { type Finding, fail, ok, warn } from "../doctor/index.ts";
import { AgentError } from "../errors.ts";

const run = promisify(execFile);
/** A network HSM that does not answer keeps its library busy for a while. */
const TIMEOUT = 30_000;
const MAX_ANSWER = 65_536;

const word = z.string().max(128);
const answer = z.union([
  z.strictObject({ failed: word, code: word }),
  z.strictObject({
    library: word,
    tokens: z
      .array(z.strictObject({ label: word, serial: word, model: word, firmware: word, flags: z.int().min(0) }))
      .max(64),
  }),
]);
type TokenInfo = Extract<z.infer<typeof answer>, { tokens: unknown }>["tokens"][number];

// PKCS#11 v2.40, pkcs11t.h: CK_TOKEN_INFO flags.
const CKF = {
  userPinInitialized: 0x8,
  tokenInitialized: 0x400,
  countLow: 0x1_0000,
  finalTry: 0x2_0000,
  locked: 0x4_0000,
  toBeChanged: 0x8_0000,
} as const;

/**
 * What a PKCS#11 library says of its tokens, asked by a process of its own that ends at once. It never logs in. The library is loaded as it
 * lies there, unpinned and outside any sandbox, with this command's rights: for a machine that is being prepared, and for no other.
 *
 * @param label of the one token that counts; undefined for all
 */
export async function hsmFindings(library: string, label: string | undefined): Promise<readonly Finding[]> {
  const said = await askLibrary(library);
  if (said === null)
    return [
      fail("hsm", { expected: `an answer of ${library} in ${TIMEOUT / 1000} s`, got: "none: it crashed, or hung" }),
    ];
  if ("failed" in said) return [fail("hsm", { expected: `${said.failed}: success`, got: said.code })];
  // SoftHSM, and others, show the next token to make as one that is there.
  const made = said.tokens.filter(({ flags }) => (flags & CKF.tokenInitialized) !== 0);
  const tokens = made.filter((token) => label === undefined || token.label === label);
  if (tokens.length === 0) {
    const got = made.map((token) => token.label).join(", ") || "no token";
    return [
      fail("hsm", {
        expected: `a token${label === undefined ? "" : ` with label ${label}`} behind ${said.library}`,
        got,
      }),
    ];
  }
  return tokens.map(tokenFinding);
}

function tokenFinding({ label, serial, model, firmware, flags }: TokenInfo): Finding {
  const has = (flag: number) => (flags & flag) !== 0;
  const got = `${label}, serial ${serial}, ${model}, firmware ${firmware}`;
  if (has(CKF.locked)) return fail("hsm", { expected: `${label}: a PIN that is not locked`, got: `locked: ${got}` });
  if (has(CKF.finalTry))
    return fail("hsm", { expected: `${label}: more than one PIN try left`, got: `the final one: ${got}` });
  if (!has(CKF.userPinInitialized))
    return fail("hsm", { expected: `${label}: a user PIN`, got: `none was set: ${got}` });
  if (has(CKF.toBeChanged))
    return warn("hsm", { expected: `${label}: a PIN to stay`, got: `one to be changed: ${got}` });
  if (has(CKF.countLow)) return warn("hsm", { expected: `${label}: no failed PIN try`, got: `one at least: ${got}` });
  return ok("hsm", got);
}

async function askLibrary(library: string): Promise<z.infer<typeof answer> | null> {
  const script = join(import.meta.dirname, "doctor-hsm-child.ts");
  if (!existsSync(script))
    throw new AgentError("ERR_ENVIRONMENT", "--module", {
      expected: "a checkout of the project",
      got: "the packaged command",
    });
  try {
    const { stdout } = await run(process.execPath, [script, library], {
      timeout: TIMEOUT,
      killSignal: "SIGKILL",
      maxBuffer: MAX_ANSWER,
    });
    // A library may print what it likes; the answer is the last line.
    const line = stdout.trimEnd().split("\n").at(-1) ?? "";
    return answer.parse(parseJson(utf8(line), "library's answer", { maxBytes: MAX_ANSWER, maxDepth: 4 }));
  } catch {
    return null;
  }
}
