import * as z from "zod";
import { foldBootExtends, type PcrBank, pcrBanks } from "../../attest/index.ts";
import { parseJson } from "../../policy/index.ts";
import { AgentError } from "../errors.ts";

const digests = z.record(z.string(), z.string());
const bootExtend = z.strictObject({
  pcr: z.union([z.literal(4), z.literal(9), z.literal(11)]),
  sha256: z.string().regex(/^[0-9a-f]{64}$/),
  sha384: z.string().regex(/^[0-9a-f]{96}$/),
});
const schema = z.strictObject({
  image: z.strictObject({ id: z.string(), variant: z.string() }),
  pcrs: z.strictObject({ sha256: digests, sha384: digests }),
  boot: z.array(bootExtend).min(1).max(256),
  events: z.array(z.strictObject({ kind: z.string(), name: z.string(), sha256: z.string() })),
});
const MAX_PREDICTION = 1 << 20;

/**
 * What `release predict` prints and `release sign` reads. `boot`: every extend of the boot, in order, so that a trial can play it on a
 * software TPM; the boot PCRs are its fold. All other values are checked when they are signed.
 */
export type Prediction = z.infer<typeof schema>;

/** @throws PolicyError ERR_POLICY_MALFORMED for no JSON; AgentError ERR_CONFIG_INVALID for another document */
export function parsePrediction(bytes: Uint8Array): Prediction {
  const json = parseJson(bytes, "prediction", { maxBytes: MAX_PREDICTION, maxDepth: 8 });
  const parsed = schema.safeParse(json);
  if (!parsed.success) {
    throw new AgentError("ERR_CONFIG_INVALID", "prediction", {
      expected: "what `ironclaw release predict` prints",
      got: "another document",
    });
  }
  for (const bank of pcrBanks) requireFold(parsed.data, bank);
  return parsed.data;
}

/** Values and extends that differ would be signed as one boot and tried as another. */
function requireFold({ boot, pcrs }: Prediction, bank: PcrBank): void {
  const folded = foldBootExtends(boot)[bank];
  for (const [pcr, expected] of Object.entries(folded)) {
    const got = pcrs[bank][pcr] ?? "none";
    if (got === expected) continue;
    const what = `prediction PCR ${pcr} (${bank})`;
    throw new AgentError("ERR_CONFIG_INVALID", what, { expected: `${expected}, the fold of boot`, got });
  }
}
