import { utf8 } from "../../../policy/bytes.ts";
import { parsePolicy } from "../../../policy/policy.ts";
import { expectTrue } from "../property.ts";

export function run(bytes: Uint8Array): void {
  const text = JSON.stringify(parsePolicy(bytes));
  expectTrue(JSON.stringify(parsePolicy(utf8(text))) === text, "policy: read again it is another one");
}
