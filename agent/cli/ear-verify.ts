import { AttestError, type EarClaims, earSubmodule, verifyEar } from "../../attest/index.ts";
import { equalBytes } from "../../policy/index.ts";
import type { Command, CommandInput } from "./command.ts";
import { readInput, readPublicKey } from "./files.ts";
import { answer, JSON_OPTION } from "./output.ts";
import { NONCE_BYTES } from "./report.ts";

export const command: Command = {
  summary: "verify a signed attestation result and print it; exit code 1 when it says contraindicated",
  positionals: ["FILE"],
  options: {
    key: { type: "string", value: "PUB", help: "public key of the verifier, PEM", required: true },
    nonce: { type: "string", value: "HEX", help: "the nonce that the token has to answer" },
    json: JSON_OPTION,
  },
  examples: [
    "ironclaw ear verify vm-1.jwt --key verifier.pub",
    "ironclaw ear verify vm-1.jwt --key verifier.pub --nonce 00ff... --json",
  ],
  run: async (input, io) => {
    const nonce = input.optional("nonce") === undefined ? null : input.hex("nonce", NONCE_BYTES);
    const key = await readPublicKey(input.text("key"), "public key");
    const token = new TextDecoder().decode(await readInput(input.positional(0), "token")).replace(/\r?\n$/, "");
    const claims = await verifyEar(token, key, new Date());
    if (nonce !== null) requireNonce(claims, nonce);
    answer(input, io, claims, inWords(claims, input));
    return claims.submods[earSubmodule]["ear.status"] === "contraindicated" ? 1 : 0;
  },
};

function requireNonce({ eat_nonce: got }: EarClaims, nonce: Uint8Array): void {
  const answered = got === undefined ? null : Uint8Array.fromBase64(got, { alphabet: "base64url" });
  if (answered !== null && equalBytes(answered, nonce)) return;
  const hex = answered?.toHex() ?? "none";
  throw new AttestError("ERR_EAR_REFUSED", "EAR eat_nonce", { expected: nonce.toHex(), got: hex });
}

function inWords(claims: EarClaims, input: CommandInput): string {
  const made = claims.submods[earSubmodule];
  const time = (seconds: number) => new Date(1000 * seconds).toISOString();
  const vector = Object.entries(made["ear.trustworthiness-vector"]).map(([name, value]) => `${name} ${value}`);
  const { developer, build } = claims["ear.verifier-id"];
  return [
    `${made["ironclaw.machine"]}: ${made["ear.status"]} (policy verdict ${made["ironclaw.tier"]}, launch ${made["ironclaw.launch"]}, ${made["ironclaw.assurance"]}, release ${made["ironclaw.release"] ?? "none"})`,
    ...made["ironclaw.findings"].map((finding) => `  ${finding}`),
    `  vector: ${vector.join(", ")}`,
    `  policy: ${made["ear.appraisal-policy-id"]}`,
    `  report sha256: ${made["ironclaw.evidence-sha256"]}`,
    `  does not prove: ${made["ironclaw.not-proven"].join(", ")}`,
    `  signed by ${developer} (${build}), valid ${time(claims.iat)} to ${time(claims.exp)}`,
    ...(input.optional("nonce") === undefined ? ["  nonce: not compared, there is no --nonce"] : []),
  ].join("\n");
}
