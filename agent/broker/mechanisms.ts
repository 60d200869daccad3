import { MECHANISMS, type MechanismRow } from "../../policy/index.ts";

/** The row of a CK_MECHANISM_TYPE; null for one that no policy can name. */
export function mechanismByValue(value: bigint): MechanismRow | null {
  return MECHANISMS.find((row) => row.value === value) ?? null;
}

/** The name for decisions and records, `0x...` for a mechanism that no policy can name. */
export function mechanismName(value: bigint): string {
  return mechanismByValue(value)?.type ?? `0x${value.toString(16)}`;
}
