import { parseJson } from "../../../policy/json.ts";
import { expectTrue } from "../property.ts";

/** What the strict reader takes, `JSON.parse` reads as the same value. */
export function run(bytes: Uint8Array): void {
  const value = parseJson(bytes, "document", { maxBytes: 4096, maxDepth: 16 });
  const plain: unknown = JSON.parse(new TextDecoder().decode(bytes));
  expectTrue(JSON.stringify(plain) === JSON.stringify(value), "json: another value than JSON.parse reads");
}
