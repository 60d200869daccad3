import { parseCompiledProfile } from "../../../policy/runtime/compile.ts";

export const maxLength = 16384;

export function run(bytes: Uint8Array): void {
  parseCompiledProfile(bytes);
}
