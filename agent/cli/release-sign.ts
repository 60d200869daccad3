import { keyIdOf } from "../../policy/index.ts";
import { loadSigningKey, type ReleaseDraft, signDelegation, signRelease } from "../../seal/index.ts";
import { type Command, type CommandInput, UsageError } from "./command.ts";
import { readInput } from "./files.ts";
import { deliver, JSON_OPTION } from "./output.ts";
import { parsePrediction } from "./prediction.ts";

const DAY = 86_400_000;

export const command: Command = {
  summary: "sign a prediction as a release, for the TPM (which PCRs open the PIN) and for people",
  positionals: ["PREDICTION"],
  options: {
    name: { type: "string", value: "NAME", help: "the release's name", required: true },
    "not-after": { type: "string", value: "TIME", help: "end of validity, e.g. 2027-11-01T00:00:00Z", required: true },
    key: { type: "string", value: "FILE", help: "release key (private, PEM, mode 0600)", required: true },
    root: {
      type: "string",
      value: "FILE",
      help: "release root key (private, PEM, mode 0600), which approves the release key",
      required: true,
    },
    out: { type: "string", value: "FILE", help: "the signed release", required: true },
    json: JSON_OPTION,
  },
  examples: [
    "ironclaw release sign prediction.json --name 2026.11 --not-after 2027-11-01T00:00:00Z --key release.pem --root root.pem --out release.json",
  ],
  run: async (input, io) => {
    // A machine or verifier whose clock is behind this one's must not refuse a fresh release.
    const notBefore = new Date(Date.now() - DAY).toISOString();
    const notAfter = parseEnd(input);
    const { image, pcrs, events } = parsePrediction(await readInput(input.positional(0), "prediction"));
    const releaseKey = await loadSigningKey(input.text("key"));
    const delegation = await signDelegation(await loadSigningKey(input.text("root")), releaseKey.spkiPem);
    const name = input.text("name");
    // `signRelease` checks every field against the release's schema.
    const draft = { name, image, epoch: 1, notBefore, notAfter, pcrs, events } as ReleaseDraft;
    const signed = await signRelease(draft, { releaseKey, delegation });
    const facts = { name, image, notBefore, notAfter, releaseKey: keyIdOf(releaseKey.spkiPem) };
    await deliver(input, io, signed, facts, `release ${name}`);
    return 0;
  },
};

function parseEnd(input: CommandInput): string {
  const text = input.text("not-after");
  const whole = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z$/.test(text);
  if (whole && Date.parse(text) > Date.now()) return text;
  throw new UsageError("--not-after", { expected: "a time to come, e.g. 2027-11-01T00:00:00Z", got: text });
}
