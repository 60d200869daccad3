// node attest/service/published.ts: writes the published descriptions anew. A test fails while they differ from the schemas in use.
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { verifierConfigSchema } from "./config.ts";
import { openApiDocument } from "./openapi.ts";

/** File in this folder to its content. */
export function publishedFiles(): ReadonlyMap<string, string> {
  const text = (document: object) => `${JSON.stringify(document, null, 2)}\n`;
  return new Map([
    ["openapi.json", text(openApiDocument())],
    ["verifier.schema.json", text(verifierConfigSchema())],
  ]);
}

if (import.meta.main) {
  for (const [name, content] of publishedFiles()) writeFileSync(join(import.meta.dirname, name), content);
}
