import { type Board, type HostItem, unknownPart } from "./configuration.ts";
import { type OptionKeys, readOption } from "./words.ts";

/** An option with its value; switches have "". */
export interface Given {
  readonly name: string;
  readonly value: string;
}

/** What the other options of a machine say, for one that refers to them. */
export interface QemuMachine {
  readonly board: Board;
  /** By the id that a device names. */
  readonly drives: ReadonlyMap<string, OptionKeys>;
  readonly tpms: ReadonlyMap<string, OptionKeys>;
}

/** What one option gives, from its value as it stands. */
export type ReadOption = (value: string, what: string, machine: QemuMachine) => readonly HostItem[];
export type ReadKeys = (keys: OptionKeys, what: string, machine: QemuMachine) => readonly HostItem[];

/** Names of keys; `*` stands for whatever follows. */
export function keyPattern(words: string): RegExp {
  return new RegExp(`^(?:${words.replaceAll(".", "\\.").replaceAll("*", ".*").split(" ").join("|")})$`);
}

/** Each key of an option that is in no table. */
export function strangers(keys: OptionKeys, known: RegExp, what: string): readonly HostItem[] {
  return [...keys.keys()].filter((key) => !known.test(key)).map((key) => unknownPart(what, key));
}

/** An option of keys, of which those in `known` give nothing but what `read` says. */
export function keyed(implied: string | null, known: string, read: ReadKeys = () => []): ReadOption {
  const pattern = keyPattern(known);
  return (value, what, machine) => {
    const keys = readOption(value, implied);
    return [...read(keys, what, machine), ...strangers(keys, pattern, what)];
  };
}
