import * as z from "zod";
import { policyForms } from "./policy.ts";
import { POLICY_WORDS } from "./policy-words.ts";

type Schema = { readonly [keyword: string]: unknown };
type Properties = Readonly<Record<string, Schema>>;

interface ObjectSchema extends Schema {
  readonly properties: Properties;
  readonly required: readonly string[];
}

/**
 * JSON Schema of the policy document, draft 2020-12, for editors: all three forms, with a description of every field. It says what a document looks
 * like; what it does not say, references between fields first of all, `parsePolicy` does: that one is the law.
 */
export function policyJsonSchema(): Schema {
  const forms = Object.entries(policyForms).map(([title, schema]) => ({ title, ...formSchema(schema) }));
  const common = Object.fromEntries(
    forms.flatMap(({ properties }) => Object.entries(properties).filter(([name]) => isSame(forms, name))),
  );
  const required = Object.keys(common).filter((name) => forms.every((form) => form.required.includes(name)));
  const names = [...new Set(forms.flatMap(({ properties }) => Object.keys(properties)))];
  return describe(
    {
      $schema: "https://json-schema.org/draft/2020-12/schema",
      title: "IronClaw policy, version 3",
      type: "object",
      // Every field of every form, so that an editor offers it before it knows the form.
      properties: Object.fromEntries(names.map((name) => [name, common[name] ?? {}])),
      required,
      additionalProperties: false,
      anyOf: forms.map((form) => branch(form, names, common)),
    },
    "",
  );
}

function formSchema(schema: z.ZodType): ObjectSchema {
  // What a schema of an object becomes.
  return z.toJSONSchema(schema, { io: "input" }) as unknown as ObjectSchema;
}

/** Is a field the same in each form that has it? */
function isSame(forms: readonly ObjectSchema[], name: string): boolean {
  const texts = forms.flatMap(({ properties }) => (name in properties ? [JSON.stringify(properties[name])] : []));
  return new Set(texts).size === 1;
}

/** What one form asks for besides what all share: its own fields, and none of the others'. */
function branch(form: ObjectSchema & { readonly title: string }, names: readonly string[], common: Properties): Schema {
  const own = Object.entries(form.properties).filter(([name]) => !(name in common));
  const foreign = names.filter((name) => !(name in form.properties)).map((name) => [name, false] as const);
  return {
    title: form.title,
    properties: Object.fromEntries<unknown>([...own, ...foreign]),
    required: form.required,
  };
}

/** The schema with its words. A path has the names of fields, and a star for whatever stands in a list or under a name of one's own. */
function describe(schema: Schema, path: string): Schema {
  const below = (step: string) => (path === "" ? step : `${path}.${step}`);
  const words = POLICY_WORDS[path];
  const described = Object.entries(schema).map(([keyword, value]) => {
    if (keyword === "properties")
      return [keyword, each(value, (name, held) => describeOne(held, below(name)))] as const;
    if (keyword === "items" || keyword === "additionalProperties")
      return [keyword, describeOne(value, below("*"))] as const;
    // The forms: what is said of the document is said once.
    if (keyword === "anyOf" && path === "" && Array.isArray(value)) {
      return [keyword, value.map((form: Schema) => ({ ...describe(form, ""), description: undefined }))] as const;
    }
    return [keyword, value] as const;
  });
  return { ...(words === undefined ? {} : { description: words }), ...Object.fromEntries(described) };
}

function describeOne(schema: unknown, path: string): unknown {
  return typeof schema === "object" && schema !== null ? describe(schema as Schema, path) : schema;
}

function each(record: unknown, change: (name: string, value: unknown) => unknown): Record<string, unknown> {
  return Object.fromEntries(Object.entries(record ?? {}).map(([name, value]) => [name, change(name, value)]));
}
