import {
  type Decision,
  type DecisionRequest,
  decide,
  decisionAdvice,
  findScope,
  type Policy,
  parsePolicy,
  policyExceptions,
  scopeTokenName,
  sortedModules,
  useConditions,
} from "../../policy/index.ts";
import type { Command, CommandInput, CommandIo } from "./command.ts";
import { readInput } from "./files.ts";
import { answer, JSON_OPTION } from "./output.ts";
import { explainModules, profilesOf } from "./policy-modules.ts";
import { isQuestion, QUESTION_OPTIONS, requestsOf } from "./policy-question.ts";

export const command: Command = {
  summary:
    "what each library may reach; or, of a caller and a key: may this happen, why, and what would have to change",
  positionals: ["POLICY"],
  options: { ...QUESTION_OPTIONS, json: JSON_OPTION },
  examples: [
    "ironclaw policy explain policy.json",
    "ironclaw policy explain policy.json --caller release-signer --key release-ec --mechanism CKM_ECDSA",
    "ironclaw policy explain policy.json --caller release-signer --key release-ec --data-length 20 --approved-by alice,bob",
  ],
  run: async (input, io) => (isQuestion(input) ? explainDecision(input, io) : explainReach(input, io)),
};

async function explainReach(input: CommandInput, io: CommandIo): Promise<0> {
  const policy = parsePolicy(await readInput(input.positional(0), "policy"));
  const exceptions = policyExceptions(policy);
  const modules = sortedModules(policy).map((module) => ({
    ...{ name: module.name, path: module.path, profile: module.profile },
    ...{ shims: module.shims, spares: module.spares },
    tokens: Object.keys(policy.tokens).filter((token) => policy.tokens[token]?.module === module.name),
    ...{ nodes: module.nodes, connect: module.connect, writable: module.writable, files: module.files },
  }));
  const { onViolation, onLoginLost, sandbox } = policy;
  const profiles = profilesOf(policy);
  const first = exceptions.map((line) => `exception  ${line}`);
  const text = [...first, ...(first.length === 0 ? [] : [""]), ...explainModules(policy, profiles)].join("\n");
  answer(input, io, { exceptions, modules, profiles, sandbox, onViolation, onLoginLost }, text.trimEnd());
  return 0;
}

async function explainDecision(input: CommandInput, io: CommandIo): Promise<0 | 1> {
  for (const name of ["caller", "key"]) input.text(name);
  const policy = parsePolicy(await readInput(input.positional(0), "policy"));
  const key = input.text("key");
  const answers = eachOnce(requestsOf(policy, input).map((request) => answerOf(policy, request)));
  const allow = answers.some((one) => one.allow);
  const tokens = answers.flatMap(({ scope }) => tokenIn(policy, scope, key) ?? []);
  const token = tokens[0] ?? null;
  const lines = answers.flatMap(describeAnswer);
  const where = token === null ? "" : `, ${key} on token ${token}`;
  answer(
    input,
    io,
    { allow, token, scopes: answers },
    [`${allow ? "allowed" : "denied"}${where}`, ...lines].join("\n"),
  );
  return allow ? 0 : 1;
}

/** A decision, about one mechanism of one scope. */
type Answer = Decision & {
  readonly scope: string;
  /** null: the answer is the same for each. */
  readonly mechanism: string | null;
  /** On what it still depends, where it is allowed. */
  readonly conditions: readonly string[];
  /** What would have to change, where it is not. */
  readonly change: string | null;
};

function answerOf(policy: Policy, request: DecisionRequest): Answer {
  const { scope, mechanism, key } = request;
  const decision = decide(policy, request);
  const found = findScope(policy, scope);
  const conditions = decision.allow && found !== null ? useConditions(policy, found, key ?? "") : [];
  const change = decision.allow ? null : decisionAdvice(policy, request, decision);
  return { scope, mechanism, ...decision, conditions, change };
}

/** Before the step `mechanism` all of a scope's answers are one. */
function eachOnce(answers: readonly Answer[]): readonly Answer[] {
  const early = (one: Answer) => !one.allow && ["caller", "frozen", "valid", "key", "operation"].includes(one.step);
  return answers
    .filter((one, index) => !early(one) || answers.findIndex(({ scope }) => scope === one.scope) === index)
    .map((one) => (early(one) ? { ...one, mechanism: null } : one));
}

function describeAnswer(one: Answer): readonly string[] {
  if (one.allow)
    return [`  ${one.scope}: yes, by rule ${one.rule}`, ...one.conditions.map((line) => `    as long as: ${line}`)];
  const by = one.mechanism === null ? "" : ` (${one.mechanism})`;
  return [
    `  ${one.scope}: no, ${one.step}: ${one.reason}${by}`,
    ...(one.change === null ? [] : [`    to change that: ${one.change}`]),
  ];
}

function tokenIn(policy: Policy, scope: string, key: string): string | null {
  const found = findScope(policy, scope);
  return found === null ? null : scopeTokenName(policy, found, key);
}
