import { MECHANISMS, type MechanismRow } from "../../policy/index.ts";

const BY_VALUE: ReadonlyMap<bigint, MechanismRow> = new Map(MECHANISMS.map((row) => [row.value, row]));

/** The row of a CK_MECHANISM_TYPE; null for one that no policy can name. */
export function mechanismByValue(value: bigint): MechanismRow | null {
  return BY_VALUE.get(value) ?? null;
}

/** The name for decisions and records, `0x...` for a mechanism that no policy can name. */
export function mechanismName(value: bigint): string {
  return mechanismByValue(value)?.type ?? `0x${value.toString(16)}`;
}
