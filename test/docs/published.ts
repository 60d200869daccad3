// Writes the pages that are made from the sources: `node test/docs/published.ts`.
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { root } from "./documents.ts";
import { messagesDocument } from "./messages.ts";
import { type Schema, schemaReference } from "./schema-reference.ts";

const schema = (path: string): Schema => JSON.parse(readFileSync(join(root, path), "utf8"));

function reference(what: string, from: string, format: string): string {
  return [
    `# ${what}: every field`,
    "",
    `Made from \`${from}\` by \`node test/docs/published.ts\`; a test fails while they differ. What the fields mean together, and which documents are refused although they fit: [${format}](${format}).`,
    "A name in a path such as `keys.NAME` is one that you choose; `[]` is an item of a list. What is not in a table is refused.",
    "",
    schemaReference(schema(from)),
  ].join("\n");
}

/** By their path from the root. */
export const PUBLISHED: Readonly<Record<string, () => string>> = {
  "agent/docs/messages.md": messagesDocument,
  "policy/REFERENCE.md": () => reference("Policy", "policy/policy.schema.json", "POLICY.md"),
  "attest/REFERENCE.md": () => reference("Appraisal policy", "attest/appraisal-policy.schema.json", "APPRAISAL.md"),
};

if (import.meta.main) for (const [path, make] of Object.entries(PUBLISHED)) writeFileSync(join(root, path), make());
