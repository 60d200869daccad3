import type { Step } from "../step.ts";
import { ASSUMPTION } from "./assumption.ts";
import { BREAK } from "./break.ts";
import { HARDEN_CALLER } from "./harden-caller.ts";
import { HARDEN_PEOPLE } from "./harden-people.ts";
import { HARDEN_USE } from "./harden-use.ts";
import { OBSERVE } from "./observe.ts";
import { RESTORE } from "./restore.ts";

/** In the order in which a person walks through them. Each can also be run alone. */
export const STEPS: readonly Step[] = [
  ...[...BREAK, ...HARDEN_CALLER, ...HARDEN_USE, ...HARDEN_PEOPLE],
  ...[...OBSERVE, ...ASSUMPTION, ...RESTORE],
];
