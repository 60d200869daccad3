import { parseControlRequest } from "../../../agent/control/control.ts";

export function run(bytes: Uint8Array): void {
  parseControlRequest(new TextDecoder().decode(bytes));
}
