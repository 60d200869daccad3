import { readFile } from "node:fs/promises";
import { join, resolve } from "node:path";
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
import { parseProfile } from "../../policy/runtime/parse.ts";

const PROFILES = resolve(import.meta.dirname, "../../policy/runtime");

/** Each module with what its library may reach, then each profile that they name, once, in words. */
export async function explainModules(policy: Policy): Promise<readonly string[]> {
  const modules = sortedModules(policy);
  const profiles = new Map(modules.map(({ profile }) => [profile.sha256, profile]));
  const texts: string[] = [];
  for (const profile of profiles.values()) texts.push(await explainNamedProfile(profile));
  return [
    ...modules.flatMap((module) => [...explainModule(policy, module), ""]),
    ...explainRules(policy),
    "",
    ...texts,
  ];
}

/** The words are about this checkout's text: whether it is the policy's profile, its digest says. */
async function explainNamedProfile({ name, sha256 }: PolicyModule["profile"]): Promise<string> {
  let text: string;
  try {
    text = await readFile(join(PROFILES, `${name}.profile`), "utf8");
  } catch {
    return `profile ${name}, sha256 ${sha256}: there is no text of it here`;
  }
  const profile = parseProfile(text);
  const found = sha256Hex(compileProfile(profile));
  if (found !== sha256) return `profile ${name}: the policy names another one, sha256 ${sha256}; here it is ${found}`;
  return explainProfile(profile);
}
