import { parseEndpoint } from "./endpoint.ts";
import { type Policy, sortedModules, sortedTokens } from "./policy.ts";

/** Texts that a policy can have at most: four modules with eight nodes or endpoints each. */
export const MAX_EXCEPTIONS = 32;

/**
 * What this policy lets a library reach beyond its own files, one line each, in a fixed order: a report says it, and whoever judges one
 * reads it first. Empty where every module has the profile `local`. A device or daemon that several tokens reach is said to be shared: what
 * the library of one leaves open there, a card that took its PIN for instance, the library of another finds open.
 */
export function policyExceptions(policy: Policy): readonly string[] {
  return sortedModules(policy).flatMap(({ name, nodes, connect }) => [
    ...nodes.map((node) => `module ${name}: device node ${node}${sharers(policy, node)}`),
    ...connect.map(
      ({ to }) =>
        `module ${name}: ${parseEndpoint(to)?.kind ?? "unknown"} ${to} through the relay${sharers(policy, to)}`,
    ),
  ]);
}

function sharers(policy: Policy, reached: string): string {
  const tokens = sortedTokens(policy).filter(({ module }) => {
    const { nodes = [], connect = [] } = policy.modules[module] ?? {};
    return nodes.includes(reached) || connect.some(({ to }) => to === reached);
  });
  return tokens.length > 1 ? `, shared by tokens ${tokens.map(({ name }) => name).join(", ")}` : "";
}
