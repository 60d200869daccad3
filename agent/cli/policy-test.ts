import { dirname, resolve } from "node:path";
import {
  type CaseResult,
  type Decision,
  locateFindings,
  parseDecisionTable,
  parsePolicy,
  runDecisionTable,
  untestedRules,
} from "../../policy/index.ts";
import type { Command } from "./command.ts";
import { readInput } from "./files.ts";
import { answer, JSON_OPTION } from "./output.ts";
import { findingFacts, findingLine, readOrList } from "./policy-findings.ts";

export const command: Command = {
  summary: "take the decisions of a table, and say which are not those that it expects",
  positionals: ["FILE"],
  options: {
    policy: { type: "string", value: "FILE", help: "another policy than the table names" },
    json: JSON_OPTION,
  },
  examples: ["ironclaw policy test decisions.json"],
  run: async (input, io) => {
    const file = input.positional(0);
    const bytes = await readInput(file, "decision table");
    const table = readOrList(file, bytes, parseDecisionTable, input, io);
    const policyFile = input.optional("policy") ?? resolve(dirname(file), table.policy);
    const policy = parsePolicy(await readInput(policyFile, "policy"));
    const results = readOrList(file, bytes, () => runDecisionTable(policy, table), input, io);
    const untested = untestedRules(policy, results);
    const failed = results.filter(({ passed }) => !passed);
    const findings = failed.map((result) => ({ path: ["cases", result.index], message: describeFailure(result) }));
    const failures = locateFindings(bytes, findings).map((finding) => findingFacts(finding, "error", "unexpected"));
    const text = [
      ...failures.map((fact) => findingLine(file, fact)),
      ...untested.map((rule) => `not tried: no case is allowed by ${rule}`),
      `${results.length - failed.length} of ${results.length} cases as expected`,
    ].join("\n");
    const facts = { ok: failed.length === 0, policy: policyFile, cases: results, failures, untested };
    answer(input, io, facts, text);
    return failed.length === 0 ? 0 : 1;
  },
};

function describeFailure({ name, expected, got }: CaseResult): string {
  return `${name}: expected ${expected === "allow" ? "allow" : `deny at ${expected.deny}`}, got ${describe(got)}`;
}

function describe(decision: Decision): string {
  return decision.allow ? `allow by ${decision.rule}` : `deny at ${decision.step}: ${decision.reason}`;
}
