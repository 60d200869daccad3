import { z } from "zod";
import { parseJson } from "../../policy/index.ts";
import { AgentError } from "../errors.ts";

const digests = z.record(z.string(), z.string());
const schema = z.strictObject({
  image: z.strictObject({ id: z.string(), variant: z.string() }),
  pcrs: z.strictObject({ sha256: digests, sha384: digests }),
  events: z.array(z.strictObject({ kind: z.string(), name: z.string(), sha256: z.string() })),
});
const MAX_PREDICTION = 1 << 20;

/** What `release predict` prints and `release sign` reads. Its values are checked when they are signed. */
export type Prediction = z.infer<typeof schema>;

/** @throws PolicyError ERR_POLICY_MALFORMED for no JSON; AgentError ERR_CONFIG_INVALID for another document */
export function parsePrediction(bytes: Uint8Array): Prediction {
  const json = parseJson(bytes, "prediction", { maxBytes: MAX_PREDICTION, maxDepth: 8 });
  const parsed = schema.safeParse(json);
  if (parsed.success) return parsed.data;
  throw new AgentError("ERR_CONFIG_INVALID", "prediction", {
    expected: "what `ironclaw release predict` prints",
    got: "another document",
  });
}
