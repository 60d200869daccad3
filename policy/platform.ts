/** What a global object shows of its platform: `process` on Node, nothing in a browser. */
export interface Runtime {
  readonly process?: { readonly getBuiltinModule?: (id: "node:crypto") => unknown };
}

/** The runtime that this code is in. */
export const thisRuntime = globalThis as Runtime;

/**
 * `node:crypto` where the platform has all of these functions, else `null`. The module is asked for and not imported, so whatever
 * depends on this loads where there is none. The caller says what it knows of the functions' types.
 */
export function findNodeCrypto({ process }: Runtime, functions: readonly string[]): object | null {
  const found: unknown = process?.getBuiltinModule?.("node:crypto");
  if (typeof found !== "object" || found === null) return null;
  const members = found as Readonly<Record<string, unknown>>;
  return functions.every((name) => typeof members[name] === "function") ? found : null;
}
