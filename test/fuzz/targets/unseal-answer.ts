import { parseUnsealAnswer } from "../../../seal/unseal-answer.ts";

export function run(bytes: Uint8Array): void {
  parseUnsealAnswer(bytes);
}
