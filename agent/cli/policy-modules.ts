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

/** Each module with what its library may reach, then each profile that they name, once, in words. */
export function explainModules(policy: Policy): readonly string[] {
  const modules = sortedModules(policy);
  const profiles = new Map(modules.map(({ profile }) => [profile.sha256, profile]));
  const texts = [...profiles.values()].map(explainNamedProfile);
  return [
    ...modules.flatMap((module) => [...explainModule(policy, module), ""]),
    ...explainRules(policy),
    "",
    ...texts,
  ];
}

/** The words are about this checkout's text: whether it is the policy's profile, its digest says. */
function explainNamedProfile({ name, sha256 }: PolicyModule["profile"]): string {
  const profile = readProfile(profileText(name));
  const found = sha256Hex(compileProfile(profile));
  if (found !== sha256) return `profile ${name}: the policy names another one, sha256 ${sha256}; here it is ${found}`;
  return explainProfile(profile);
}
