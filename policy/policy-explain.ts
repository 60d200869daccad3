import { parseEndpoint } from "./endpoint.ts";
import { type NamedModule, type Policy, sortedTokens } from "./policy.ts";
import { SANDBOX_FEATURES, type SandboxFeature } from "./runtime/features.ts";

/**
 * What a module's library may reach, in plain words, a line each. What its calls are narrowed to is the sandbox profile's text to say
 * (`explainProfile`). Does not establish that a machine holds the library to it: its report does.
 */
export function explainModule(policy: Policy, module: NamedModule): readonly string[] {
  const { name, path, closure, config, environment, writable, files, shims, spares, profile } = module;
  const tokens = sortedTokens(policy).filter((token) => token.module === name);
  return [
    `module ${name}: ${path}, sandbox profile ${profile.name}`,
    `  tokens: ${tokens.map((token) => token.name).join(", ")}; each in processes of its own, ${serving(shims)} and ${plural(spares, "spare")}`,
    `  reads: itself, ${plural(Object.keys(closure).length, "object")} that its loader opens, ${list(Object.keys(config), "no configuration")}`,
    `  writes: ${list(writable, "nothing")}${writable.length === 0 ? "" : ", private to each process and empty when it starts"}`,
    `  devices: ${list(module.nodes, "none")}`,
    `  network: ${list(module.connect.map(describeEndpoint), "none")}`,
    `  secrets: the PIN of its token${Object.entries(files)
      .map(([file, credential]) => `, ${credential} as ${file}`)
      .join("")}`,
    `  environment: ${list(Object.keys(environment), "none")}`,
  ];
}

function describeEndpoint({ listen, to }: NamedModule["connect"][number]): string {
  const kind = parseEndpoint(to)?.kind === "unix" ? "the socket" : "tcp";
  return `${kind} ${to} through the relay, which it sees as ${listen}`;
}

/** What every module of the policy has in common: what becomes of a denied call, a lost login, a kernel that lacks something. */
export function explainRules({ onViolation, onLoginLost, sandbox }: Policy): readonly string[] {
  const kill = "its token's processes are ended and its keys are served no longer";
  return [
    `a call that the sandbox denies and watches: recorded, measured and reported${onViolation === "kill" ? `; ${kill}` : ""}`,
    `a token with no process left that is logged in: ${onLoginLost === "reboot" ? "the machine starts again" : "its keys are served no longer"}`,
    `a kernel that lacks a feature of the sandbox: ${sandbox.lacks.length === 0 ? "no PIN is unsealed" : `tolerated for ${sandbox.lacks.map(describeFeature).join(", ")}`}`,
  ];
}

function describeFeature(feature: SandboxFeature): string {
  const found = SANDBOX_FEATURES.find(({ name }) => name === feature);
  return found === undefined ? feature : `${feature} (${found.loss}; what remains: ${found.remains})`;
}

function serving(shims: number): string {
  return shims === 1 ? "one that serves" : `${shims} that serve`;
}

function plural(count: number, noun: string): string {
  return count === 1 ? `1 ${noun}` : `${count === 0 ? "no" : count} ${noun}s`;
}

function list(items: readonly string[], none: string): string {
  return items.length === 0 ? none : items.join(", ");
}
