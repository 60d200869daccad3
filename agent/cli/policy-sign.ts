import { keyIdOf, requireNarrowing, sha256Hex, signPolicy } from "../../policy/index.ts";
import type { Command } from "./command.ts";
import { readPolicyFile } from "./freeze-options.ts";
import { deliver, JSON_OPTION } from "./output.ts";
import { openSigningKey, signingKeyOption } from "./signing-key.ts";

export const command: Command = {
  summary: "sign a policy that only narrows another, for machines that run under a release of this key",
  positionals: ["POLICY"],
  options: {
    narrows: { type: "string", value: "FILE", help: "the policy that the machines run now", required: true },
    key: signingKeyOption("release key"),
    out: { type: "string", value: "FILE", help: "the signed policy", required: true },
    json: JSON_OPTION,
  },
  examples: ["ironclaw policy sign narrower.json --narrows policy.json --key release.pem --out narrower.signed.json"],
  run: async (input, io) => {
    const [old, next] = [await readPolicyFile(input.text("narrows")), await readPolicyFile(input.positional(0))];
    requireNarrowing(old.policy, next.policy);
    const key = await openSigningKey(input.text("key"));
    const { serial } = next.policy;
    const facts = { serial, sha256: sha256Hex(next.bytes), key: keyIdOf(key.spkiPem) };
    await deliver(input, io, await signPolicy(next.bytes, key), facts, `policy serial ${serial}`);
    return 0;
  },
};
