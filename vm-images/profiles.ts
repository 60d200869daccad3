import { readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { compileProfile } from "../policy/runtime/compile.ts";
import { parseProfile } from "../policy/runtime/parse.ts";
import type { Profile } from "../policy/runtime/profile.ts";

const TEXTS = resolve(import.meta.dirname, "../policy/runtime");

/** The profiles that there are. Only `local` is included by others. */
export const PROFILE_NAMES = ["local", "relay", "usb"] as const;

export type ProfileName = (typeof PROFILE_NAMES)[number];

/** A profile as people read it. */
export function profileText(name: ProfileName): string {
  return readFileSync(join(TEXTS, `${name}.profile`), "utf8");
}

/** A text that may include `local`: a profile of this project, or one that an operator writes. */
export function readProfile(text: string): Profile {
  return parseProfile(text, (name) => (name === "local" ? profileText(name) : undefined));
}

/** One shim's runtime policy, compiled to the binary form that the shim loads. */
export function compiledProfile(name: ProfileName): Uint8Array {
  return compileProfile(readProfile(profileText(name)));
}

/** All of them, by the name of the file that holds each beside the shim. */
export function compiledProfiles(): ReadonlyMap<string, Uint8Array> {
  return new Map(PROFILE_NAMES.map((name) => [`${name}.profile`, compiledProfile(name)]));
}
