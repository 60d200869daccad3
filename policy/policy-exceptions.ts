import { parseEndpoint } from "./endpoint.ts";
import { type Policy, sortedModules } from "./policy.ts";

/** Texts that a policy can have at most: four modules with eight nodes or endpoints each. */
export const MAX_EXCEPTIONS = 32;

/**
 * What this policy lets a library reach beyond its own files, one line each, in a fixed order: a report says it, and whoever judges one
 * reads it first. Empty where every module has the profile `local`.
 */
export function policyExceptions(policy: Policy): readonly string[] {
  return sortedModules(policy).flatMap(({ name, nodes, connect }) => [
    ...nodes.map((node) => `module ${name}: device node ${node}`),
    ...connect.map(({ to }) => `module ${name}: ${parseEndpoint(to)?.kind ?? "unknown"} ${to} through the relay`),
  ]);
}
