import { z } from "zod";
import { parseJson } from "../../policy/index.ts";
import { loadSigningKey, type ReleaseDraft, signDelegation, signRelease } from "../../seal/index.ts";
import { AgentError } from "../errors.ts";
import type { Command } from "./command.ts";
import { readInput, writeOutput } from "./files.ts";

const digests = z.record(z.string(), z.string());
const prediction = z.strictObject({
  pcrs: z.strictObject({ sha256: digests, sha384: digests }),
  events: z.array(z.strictObject({ kind: z.string(), name: z.string(), sha256: z.string() })),
});
const MAX_PREDICTION = 1 << 20;

export const command: Command = {
  summary: "sign a prediction as a release, for the TPM (which PCRs open the PIN) and for people",
  positionals: ["PREDICTION"],
  options: {
    name: { type: "string", value: "NAME", help: "the release's name", required: true },
    image: { type: "string", value: "SHA256", help: "the image's id (its manifest has it)", required: true },
    variant: { type: "string", value: "NAME", help: "demo, dev or release", required: true },
    "not-after": { type: "string", value: "TIME", help: "end of validity, e.g. 2027-11-01T00:00:00Z", required: true },
    key: { type: "string", value: "FILE", help: "release key (private, PEM, mode 0600)", required: true },
    root: {
      type: "string",
      value: "FILE",
      help: "release root key (private, PEM), which approves the release key",
      required: true,
    },
    out: { type: "string", value: "FILE", help: "the signed release", required: true },
  },
  examples: [
    "ironclaw release sign prediction.json --name 2026.11 --image 9d0e... --variant demo --not-after 2027-11-01T00:00:00Z --key release.pem --root root.pem --out release.json",
  ],
  run: async (input, io) => {
    const json = parseJson(await readInput(input.positional(0), "prediction"), "prediction", {
      maxBytes: MAX_PREDICTION,
      maxDepth: 8,
    });
    const parsed = prediction.safeParse(json);
    if (!parsed.success)
      throw new AgentError("ERR_CONFIG_INVALID", "prediction", {
        expected: "what `ironclaw release predict` prints",
        got: "another document",
      });
    const releaseKey = await loadSigningKey(input.text("key"));
    const delegation = await signDelegation(await loadSigningKey(input.text("root")), releaseKey.spkiPem);
    // `signRelease` checks every field against the release's schema.
    const draft = {
      ...parsed.data,
      name: input.text("name"),
      image: { id: input.text("image"), variant: input.text("variant") },
      epoch: 1,
      notBefore: new Date().toISOString(),
      notAfter: input.text("not-after"),
    } as ReleaseDraft;
    await writeOutput(input.text("out"), await signRelease(draft, { releaseKey, delegation }));
    io.print(`signed ${input.text("out")}`);
    return 0;
  },
};
