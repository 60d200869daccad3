import { compileProfile, parseCompiledProfile } from "../../../policy/runtime/compile.ts";
import { explainProfile } from "../../../policy/runtime/explain.ts";
import { parseProfile } from "../../../policy/runtime/parse.ts";

export const maxLength = 16384;

/** A text, or the text that it may include as `local`, a form feed and the text. */
export function run(bytes: Uint8Array): void {
  const [first = "", second] = new TextDecoder().decode(bytes).split("\f");
  const profile =
    second === undefined ? parseProfile(first) : parseProfile(second, (name) => (name === "local" ? first : undefined));
  explainProfile(profile);
  parseCompiledProfile(compileProfile(profile));
}
