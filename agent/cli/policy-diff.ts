import { comparePolicies, describeChange } from "../../policy/index.ts";
import type { Command } from "./command.ts";
import { readPolicyFile } from "./freeze-options.ts";
import { answer, JSON_OPTION } from "./output.ts";

export const command: Command = {
  summary: "say whether a policy only narrows another, and every field in which they differ",
  positionals: ["OLD", "NEW"],
  options: { json: JSON_OPTION },
  examples: ["ironclaw policy diff policy.json narrower.json", "ironclaw policy diff policy.json narrower.json --json"],
  run: async (input, io) => {
    const [old, next] = [await readPolicyFile(input.positional(0)), await readPolicyFile(input.positional(1))];
    const changes = comparePolicies(old.policy, next.policy);
    const raised = next.policy.serial > old.policy.serial;
    const onlyNarrows = raised && changes.every(({ kind }) => kind === "narrows");
    const lines = changes.map((change) => `  ${change.kind}: ${describeChange(change, next.policy)}`);
    const serial = raised ? [] : [`  serial: ${old.policy.serial} is not below ${next.policy.serial}`];
    const verdict = onlyNarrows
      ? "only narrows: a running machine takes it"
      : "does not only narrow: it takes a release";
    const serials = { from: old.policy.serial, to: next.policy.serial };
    answer(input, io, { onlyNarrows, serial: serials, changes }, [verdict, ...serial, ...lines].join("\n"));
    return onlyNarrows ? 0 : 1;
  },
};
