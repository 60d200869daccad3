import { parseConfig } from "../../../agent/config.ts";

export function run(bytes: Uint8Array): void {
  parseConfig(bytes);
}
