import type { PcrSection } from "./evidence.ts";
import type { Reason } from "./reason.ts";

/** What each file is, in the order in which a reader needs them. `%` stands for a number. */
const descriptions: readonly (readonly [path: string, what: string])[] = [
  ["quote.bin", "TPMS_ATTEST: what the TPM signed"],
  ["signature.bin", "TPMT_SIGNATURE over quote.bin"],
  ["ak.pem", "the attestation key as SubjectPublicKeyInfo"],
  ["ak.tpm2b", "the attestation key as TPM2B_PUBLIC; `-u` takes it as well"],
  ["ak.tpmt", "the attestation key as TPMT_PUBLIC: the bytes that are hashed"],
  ["pcrs.bin", "the PCR values, one after the other, ascending"],
  ["pcrs.serialized", "the same in the layout that `tpm2_quote -o` writes"],
  ["pcrs.json", "the PCR values for people"],
  ["pcrs.cbor", "the PCR values as they were sent"],
  ["firmware-log.bin", "the firmware's event log, untouched; `tpm2_eventlog` prints it"],
  ["agent-log.jsonl", "the agent's log (PCR 13), TCG CEL-JSON, a record a line"],
  ["agent-log.cbor", "the agent's log as TCG CEL-CBOR: the bytes that are hashed"],
  ["ek-certificates/%.der", "the EK's certificate (0) and its issuers, as the TPM gave them"],
  ["ek-chain.pem", "the same in one file"],
  ["ek-certificates.cbor", "the same as they were sent: the bytes that are hashed"],
  ["claims.json", "the claims, for people"],
  ["claims.cbor", "the claims, UCCS: the bytes that are hashed"],
  ["nonce.hex", "the verifier's nonce"],
  ["extra-data.hex", "what the quote has to carry: the hash over nonce and sections"],
];

/** Beside `extra-data.hex`: the same from the files, with tools that every machine has. EVIDENCE.md section 2. */
const recompute = String.raw`{ printf 'ironclaw/evidence/v1\000\000\000\000\000\000\000\000\040'
  perl -ne 'chomp; print pack "H*", $_' nonce.hex
  for section in ak.tpmt claims.cbor agent-log.cbor firmware-log.bin ek-certificates.cbor; do
    printf '\000\000\000\000\000\000\000\040'
    openssl dgst -sha256 -binary "$section"
  done
} | sha256sum | cut -c1-64 | cmp - extra-data.hex`;

/**
 * The text that lies beside exported files: what they are, and the commands that check them.
 * @param quoted PCR values that were reported; null where something that the check needs could not be read
 */
export function describeExport(
  paths: readonly string[],
  quoted: PcrSection | null,
  malformed: readonly Reason[],
): string {
  const present = new Set(paths.map((path) => path.replace(/\d+\.der$/, "%.der")));
  const rows = descriptions.filter(([path]) => present.has(path));
  return [
    "A report of an IronClaw machine, taken apart for other tools. The format is described in attest/EVIDENCE.md.",
    "Nothing here was verified when it was written.",
    "",
    ...rows.map(([path, what]) => `  ${path.replace("%", "N").padEnd(22)} ${what}`),
    "",
    ...(malformed.length > 0
      ? ["Malformed, so that only its bytes are here:", "", ...malformed.map(oneReason), ""]
      : []),
    ...(quoted === null || quoted.values.size === 0 ? ["There is no command that could check this."] : checks(quoted)),
    "",
  ].join("\n");
}

function checks({ bank, values }: PcrSection): readonly string[] {
  return [
    `The quote is over PCRs ${[...values.keys()].join(", ")} of the ${bank} bank.`,
    "",
    "Do the key, the quote, the PCR values and the hash over nonce and sections belong together?",
    "",
    `  tpm2_checkquote -u ak.pem -g sha256 -m quote.bin -s signature.bin \\`,
    '    -f pcrs.serialized -q "$(cat extra-data.hex)"',
    "",
    "Is that hash the one over these files?",
    "",
    ...recompute.split("\n").map((line) => `  ${line}`),
    "",
    "Both end with exit code 0 when it is so. They do not say that the nonce is fresh (compare nonce.hex with your own), that",
    "the key is in a TPM (enrolment does), that the logs explain the PCR values, or that any measurement is a good one:",
    "`ironclaw verify` does.",
  ];
}

/** What is quoted of the machine is cut to characters that a terminal only prints. */
function oneReason({ code, item, expected, got }: Reason): string {
  return `  ${code} ${item} (expected ${expected}, got ${got})`.replaceAll(/[^ -~]/g, "?").slice(0, 400);
}
