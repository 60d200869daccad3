import { keyIdOf, MAX_EPOCH, parseAnchors, parseDelegation } from "../../policy/index.ts";
import { type ReleaseDraft, SealError, signRelease } from "../../seal/index.ts";
import { type Command, type CommandInput, UsageError } from "./command.ts";
import { readInput } from "./files.ts";
import { deliver, JSON_OPTION } from "./output.ts";
import { parsePrediction } from "./prediction.ts";
import { openSigningKey, signingKeyOption } from "./signing-key.ts";

const DAY = 86_400_000;

export const command: Command = {
  summary: "sign a prediction as a release, for the TPM (which PCRs open the credentials) and for people",
  positionals: ["PREDICTION"],
  options: {
    name: { type: "string", value: "NAME", help: "the release's name", required: true },
    "not-after": { type: "string", value: "TIME", help: "end of validity, e.g. 2027-11-01T00:00:00Z", required: true },
    "not-before": { type: "string", value: "TIME", help: "its start (default: a day ago, for clocks that are behind)" },
    epoch: {
      type: "string",
      value: "N",
      help: "the same as the release before it, or one more if that one is to end",
      required: true,
    },
    raise: { type: "boolean", help: "end all lower epochs on a machine once this release serves there, for good" },
    key: signingKeyOption("release key"),
    delegation: { type: "string", value: "FILE", help: "the root's approval, of `keys delegate`", required: true },
    anchors: { type: "string", value: "FILE", help: "trust anchors: which root", required: true },
    out: { type: "string", value: "FILE", help: "the signed release", required: true },
    json: JSON_OPTION,
  },
  examples: [
    "ironclaw release sign prediction.json --name 2026.11 --not-after 2027-11-01T00:00:00Z --epoch 1 --key release.pem --delegation delegation.json --anchors anchors.json --out release.json",
    "ironclaw release sign prediction.json --name 2026.12 --not-after 2027-12-01T00:00:00Z --epoch 2 --raise --key release.pem --delegation delegation.json --anchors anchors.json --out release.json",
  ],
  run: async (input, io) => {
    const validity = readValidity(input);
    const epoch = input.integer("epoch", 0, MAX_EPOCH) ?? 0; // parsing has required it
    const raise = input.flag("raise");
    if (raise && epoch === 0) throw new UsageError("--epoch", { expected: "1 or more with --raise", got: "0" });
    const { image, pcrs, events } = parsePrediction(await readInput(input.positional(0), "prediction"));
    const { releaseRoot: rootKeyPem } = parseAnchors(await readInput(input.text("anchors"), "anchors"));
    const document = parseDelegation(await readInput(input.text("delegation"), "delegation"));
    const releaseKey = await openSigningKey(input.text("key"));
    requireDelegated(keyIdOf(document.releaseKey), keyIdOf(releaseKey.spkiPem));
    const name = input.text("name");
    // `signRelease` checks every field against the release's schema.
    const draft = { name, image, epoch, ...validity, pcrs, events, raise } as ReleaseDraft;
    const signed = await signRelease(draft, { releaseKey, delegation: document.delegation, rootKeyPem });
    const credentials = document.delegation.credentials.map((credential) => credential.name);
    const facts = { name, image, epoch, raise, ...validity, credentials, releaseKey: keyIdOf(releaseKey.spkiPem) };
    await deliver(input, io, signed, facts, `release ${name}, epoch ${epoch}`);
    return 0;
  },
};

function readValidity(input: CommandInput): { readonly notBefore: string; readonly notAfter: string } {
  const now = Date.now();
  // A machine or verifier whose clock is behind this one's must not refuse a fresh release.
  const notBefore = input.time("not-before") ?? new Date(now - DAY).toISOString();
  const notAfter = input.time("not-after") ?? "";
  if (Date.parse(notAfter) <= now) throw new UsageError("--not-after", { expected: "a time to come", got: notAfter });
  if (Date.parse(notBefore) <= Date.parse(notAfter)) return { notBefore, notAfter };
  throw new UsageError("--not-before", { expected: "a time before --not-after", got: notBefore });
}

function requireDelegated(delegated: string, got: string): void {
  if (delegated === got) return;
  const hint = "`ironclaw keys delegate` approves this key";
  throw new SealError("ERR_RELEASE_REFUSED", "release key", {
    expected: `${delegated}, which was delegated to`,
    got,
    hint,
  });
}
