import { parsePolicy } from "../../policy/index.ts";
import type { Command } from "./command.ts";
import { readInput } from "./files.ts";

export const command: Command = {
  summary: "read a policy document and list every finding",
  positionals: ["FILE"],
  options: { json: { type: "boolean", help: "print one JSON document" } },
  examples: ["ironclaw policy check policy.json"],
  run: async (input, io) => {
    const policy = parsePolicy(await readInput(input.positional(0), "policy"));
    const scopes = policy.scopes.map(({ name, caller, key, mechanisms }) => ({
      name,
      caller,
      key,
      mechanisms: mechanisms.map(({ type }) => type),
    }));
    if (input.flag("json")) io.print(JSON.stringify({ ok: true, serial: policy.serial, owner: policy.owner, scopes }));
    else {
      io.print(`policy ${policy.serial} of ${policy.owner}, review by ${policy.reviewBy}`);
      for (const scope of scopes)
        io.print(`  ${scope.name}: ${scope.caller} may sign with ${scope.key} by ${scope.mechanisms.join(", ")}`);
    }
    return 0;
  },
};
