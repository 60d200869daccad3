import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { policyJsonSchema } from "../../policy/policy-schema.ts";
import { POLICY_WORDS } from "../../policy/policy-words.ts";
import { decryptionScopes } from "../support/broker-fixture.ts";
import {
  type PolicyDocument,
  policyDocument,
  twoModuleDocument,
  twoTokenDocument,
} from "../support/policy-document.ts";

type Schema = Readonly<Record<string, unknown>> | boolean;
const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && !Array.isArray(value);

const types: Readonly<Record<string, (value: unknown) => boolean>> = {
  object: isRecord,
  array: Array.isArray,
  string: (value) => typeof value === "string",
  integer: Number.isInteger,
  number: (value) => typeof value === "number",
  boolean: (value) => typeof value === "boolean",
  null: (value) => value === null,
};
const sizeOf = (value: unknown) => (typeof value === "string" || Array.isArray(value) ? value.length : 0);

/** The keywords that the schema uses, as the specification has them (JSON Schema 2020-12, validation); another one fails the test. */
const keywords: Readonly<
  Record<string, (argument: never, value: unknown, schema: Record<string, unknown>) => boolean>
> = {
  type: (name: string, value) => types[name]?.(value) === true,
  const: (only: unknown, value) => only === value,
  enum: (all: readonly unknown[], value) => all.includes(value),
  pattern: (text: string, value) => typeof value !== "string" || new RegExp(text, "u").test(value),
  minimum: (least: number, value) => typeof value !== "number" || value >= least,
  maximum: (most: number, value) => typeof value !== "number" || value <= most,
  minLength: (least: number, value) => sizeOf(value) >= least,
  maxLength: (most: number, value) => sizeOf(value) <= most,
  minItems: (least: number, value) => sizeOf(value) >= least,
  maxItems: (most: number, value) => sizeOf(value) <= most,
  required: (names: readonly string[], value) => !isRecord(value) || names.every((name) => Object.hasOwn(value, name)),
  propertyNames: (inner: Schema, value) => !isRecord(value) || Object.keys(value).every((name) => fits(inner, name)),
  properties: (inner: Record<string, Schema>, value) =>
    !isRecord(value) || Object.entries(value).every(([name, held]) => fits(inner[name] ?? true, held)),
  additionalProperties: (inner: Schema, value, { properties = {} }) =>
    !isRecord(value) ||
    Object.entries(value).every(([name, held]) => Object.hasOwn(properties as object, name) || fits(inner, held)),
  items: (inner: Schema, value) => !Array.isArray(value) || value.every((item) => fits(inner, item)),
  anyOf: (inner: readonly Schema[], value) => inner.some((one) => fits(one, value)),
};
const annotations = ["$schema", "title", "description", "default", "format"];

function fits(schema: Schema, value: unknown): boolean {
  if (typeof schema === "boolean") return schema;
  return Object.entries(schema).every(([keyword, argument]) => {
    if (annotations.includes(keyword)) return true;
    const check = keywords[keyword];
    if (check === undefined) throw new Error(`${keyword} is not known here`);
    return check(argument as never, value, schema);
  });
}

/** Each field of the schema with its path and description. */
function* fields(schema: unknown, path = ""): Generator<readonly [string, unknown]> {
  if (Array.isArray(schema)) for (const one of schema) yield* fields(one, path);
  if (!isRecord(schema)) return;
  for (const [keyword, inner] of Object.entries(schema)) {
    if (keyword !== "properties" || !isRecord(inner)) {
      yield* fields(inner, keyword === "items" || keyword === "additionalProperties" ? `${path}*.` : path);
      continue;
    }
    for (const [name, field] of Object.entries(inner)) {
      if (isRecord(field)) yield [`${path}${name}`, field["description"]];
      yield* fields(field, `${path}${name}.`);
    }
  }
}

const schema = policyJsonSchema();

/** A policy with every field of a scope that there is. */
function everything(): PolicyDocument {
  const document = policyDocument();
  decryptionScopes(document);
  Object.assign(document, { approvers: { alice: { key: `ssh-ed25519 ${"A".repeat(68)}`, notFor: [] } } });
  Object.assign(document.scopes[0] ?? {}, {
    ...{ budget: { operations: 1 }, valid: { from: "2027-01-01T00:00:00Z", until: "2028-01-01T00:00:00Z" } },
    ...{ lifetime: "PT8H", idle: "PT1M", connections: 4, inFlight: 4, freezeBit: 1 },
    approvals: { required: 1, of: ["alice"], for: "window", window: "PT15M" },
  });
  return document;
}

describe("the published JSON Schema", () => {
  it("I6: is that of the reader", () => {
    const published: unknown = JSON.parse(
      readFileSync(new URL("../../policy/policy.schema.json", import.meta.url), "utf8"),
    );
    expect(published).toEqual(JSON.parse(JSON.stringify(schema)));
  });

  it("I6: says something of every field, and nothing of a field that there is none of", () => {
    const found = [...fields(schema)];
    for (const [path, description] of found) expect(description, path).toMatch(/\.$/);
    const words = Object.keys(POLICY_WORDS).filter((path) => path !== "");
    expect([...new Set(found.map(([path]) => path))].sort()).toEqual(words.sort());
  });

  it.each([
    ["one module and one token", policyDocument()],
    ["every field of a scope", everything()],
    ["two tokens", twoTokenDocument()],
    ["two modules", twoModuleDocument()],
  ])("I6: a policy with %s fits it", (_, document) => {
    expect(fits(schema, document)).toBe(true);
  });

  it.each<[string, (document: PolicyDocument) => void]>([
    ["an unknown field", (document) => Object.assign(document, { wildcard: "*" })],
    ["the schema's own address", (document) => Object.assign(document, { $schema: "policy.schema.json" })],
    ["another version", (document) => Object.assign(document, { version: 2 })],
    ["fields of two forms", (document) => Object.assign(document, { modules: twoModuleDocument()["modules"] })],
    ["no owner", (document) => delete document["owner"]],
    [
      "a key by its label only",
      (document) => Object.assign(document.keys, { vault: { label: "vault", does: "decrypt" } }),
    ],
    ["root as a caller", (document) => Object.assign(document.callers["backup"] ?? {}, { uid: 0 })],
    ["a mechanism that nobody knows", (d) => Object.assign(d.scopes[0] ?? {}, { mechanisms: [{ type: "*" }] })],
  ])("I6: a policy with %s does not", (_, change) => {
    const document = policyDocument();
    change(document);
    expect(fits(schema, document)).toBe(false);
  });
});
