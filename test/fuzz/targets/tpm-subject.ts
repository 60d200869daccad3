import { parseTpmSubject } from "../../../attest/tpm-subject.ts";

export function run(bytes: Uint8Array): void {
  for (const text of Object.values(parseTpmSubject(bytes))) {
    if (typeof text === "string" && text.length > 64) throw new Error("a longer text than allowed");
  }
}
