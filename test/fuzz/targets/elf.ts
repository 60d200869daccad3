import { parseElf } from "../../../attest/elf.ts";

export function run(bytes: Uint8Array): void {
  parseElf(bytes);
}
