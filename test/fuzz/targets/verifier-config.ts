import { encodeVerifierConfig, parseVerifierConfig } from "../../../attest/service/config.ts";
import { expectSame } from "../property.ts";

export function run(bytes: Uint8Array): void {
  const encoded = encodeVerifierConfig(parseVerifierConfig(bytes));
  expectSame(encoded, encodeVerifierConfig(parseVerifierConfig(encoded)), "verifier configuration");
}
