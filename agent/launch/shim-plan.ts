import { moduleOf, type NamedModule, type Policy, type PolicyToken, sortedTokens } from "../../policy/index.ts";

/** A token of the policy with its name. */
export type NamedToken = PolicyToken & { readonly name: string };

/** A shim of the launch: each serves one token, and no other one ever. */
export interface PlannedShim {
  /** What the spawner and reports call it. */
  readonly id: number;
  readonly token: NamedToken;
  readonly module: NamedModule;
  /** 0 is the first to log in, and the first to serve. */
  readonly place: number;
  /** Whether it will serve from the start; the others are spares. */
  readonly serves: boolean;
}

/** Every shim of a policy: those that serve each token and its spares, as many as its module says, in the order of the tokens' names. */
export function planShims(policy: Policy): readonly PlannedShim[] {
  const places = sortedTokens(policy).flatMap((token) => {
    const module = moduleOf(policy, token.name);
    const { shims, spares } = module;
    return Array.from({ length: shims + spares }, (_, place) => ({ token, module, place, serves: place < shims }));
  });
  return places.map((place, id) => ({ id, ...place }));
}

/** The shims in the order in which they are measured: the first of each module by the module's name, then all the others. */
export function measuringOrder(shims: readonly PlannedShim[]): readonly PlannedShim[] {
  const firsts = new Map<string, PlannedShim>();
  for (const shim of shims) if (!firsts.has(shim.module.name)) firsts.set(shim.module.name, shim);
  const first = [...firsts.values()].sort((a, b) => (a.module.name < b.module.name ? -1 : 1));
  return [...first, ...shims.filter((shim) => !first.includes(shim))];
}
