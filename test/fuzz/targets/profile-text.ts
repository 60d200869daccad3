import { compileProfile, parseCompiledProfile } from "../../../policy/runtime/compile.ts";
import { explainProfile } from "../../../policy/runtime/explain.ts";
import { parseProfile } from "../../../policy/runtime/parse.ts";

export const maxLength = 8192;

export function run(bytes: Uint8Array): void {
  const profile = parseProfile(new TextDecoder().decode(bytes));
  explainProfile(profile);
  parseCompiledProfile(compileProfile(profile));
}
