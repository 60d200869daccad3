import {
  explainModule,
  explainRules,
  type Policy,
  type PolicyModule,
  sha256Hex,
  sortedModules,
} from "../../policy/index.ts";
import { compileProfile } from "../../policy/runtime/compile.ts";
import { explainProfile } from "../../policy/runtime/explain.ts";
import { profileText, readProfile } from "../../vm-images/profiles.ts";

/** A sandbox profile that a policy names. */
export interface NamedProfile {
  readonly name: string;
  /** As the policy has it. */
  readonly sha256: string;
  /** Whether this checkout's text of that name compiles to it. */
  readonly matches: boolean;
  /** In words; null where it is another profile, of which nothing is known here. */
  readonly explanation: string | null;
}

/** The profiles that a policy's modules name, each once. */
export function profilesOf(policy: Policy): readonly NamedProfile[] {
  const named = sortedModules(policy).map(({ profile }) => profile);
  return [...new Map(named.map((profile) => [`${profile.name} ${profile.sha256}`, profile])).values()].map(nameProfile);
}

function nameProfile({ name, sha256 }: PolicyModule["profile"]): NamedProfile {
  const profile = readProfile(profileText(name));
  const matches = sha256Hex(compileProfile(profile)) === sha256;
  return { name, sha256, matches, explanation: matches ? explainProfile(profile) : null };
}

/** Each module with what its library may reach, then each profile that they name, in words. */
export function explainModules(policy: Policy, profiles: readonly NamedProfile[]): readonly string[] {
  return [
    ...sortedModules(policy).flatMap((module) => [...explainModule(policy, module), ""]),
    ...explainRules(policy),
    "",
    ...profiles.map(
      ({ name, sha256, explanation }) =>
        explanation ?? `profile ${name}: the policy names another one than this checkout has, sha256 ${sha256}`,
    ),
  ];
}
