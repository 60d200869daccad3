/** A JSON Schema as far as this project's have one. */
export interface Schema {
  readonly title?: string;
  readonly description?: string;
  readonly type?: string;
  readonly const?: unknown;
  readonly enum?: readonly unknown[];
  readonly pattern?: string;
  readonly format?: string;
  readonly minLength?: number;
  readonly maxLength?: number;
  readonly minimum?: number;
  readonly maximum?: number;
  readonly minItems?: number;
  readonly maxItems?: number;
  readonly default?: unknown;
  readonly items?: Schema;
  readonly properties?: Readonly<Record<string, Schema>>;
  readonly required?: readonly string[];
  readonly propertyNames?: Schema;
  readonly additionalProperties?: Schema | boolean;
  readonly anyOf?: readonly Schema[];
  readonly oneOf?: readonly Schema[];
}

/** Tables of every field of a document: one for each object in it, in the order of the schema. */
export function schemaReference(schema: Schema): string {
  const sections: string[] = [];
  visit("", schema, sections);
  return sections.join("\n");
}

function visit(path: string, schema: Schema, sections: string[]): void {
  const fields = Object.entries(schema.properties ?? {});
  if (fields.length > 0) sections.push(sectionOf(path, schema, fields));
  for (const [name, field] of fields) visitField(path === "" ? name : `${path}.${name}`, field, sections);
  for (const variant of variantsOf(schema)) {
    const title = variant.title === undefined ? path : `${path === "" ? "" : `${path}: `}${variant.title}`;
    if (variant.properties !== undefined) visit(title, variant, sections);
    else visitField(path, variant, sections);
  }
}

/** What a field's value has inside: an object, the entries of a map, the items of a list. */
function visitField(path: string, schema: Schema, sections: string[]): void {
  if (schema.items !== undefined) visitField(`${path}[]`, schema.items, sections);
  else if (typeof schema.additionalProperties === "object")
    visitField(`${path}.NAME`, schema.additionalProperties, sections);
  else visit(path, schema, sections);
}

function variantsOf({ anyOf = [], oneOf = [] }: Schema): readonly Schema[] {
  return [...anyOf, ...oneOf];
}

function sectionOf(path: string, schema: Schema, fields: readonly (readonly [string, Schema])[]): string {
  const rows = fields.map(([name, field]) => {
    const given = schema.required?.includes(name) === true ? "required" : defaultOf(field);
    return `| \`${name}\` | ${cell(inWords(field))} | ${given} | ${cell(field.description ?? "")} |`;
  });
  return [
    `### ${path === "" ? "The document" : `\`${path}\``}`,
    "",
    ...(schema.description === undefined ? [] : [schema.description, ""]),
    "| field | value | | says |",
    "| --- | --- | --- | --- |",
    ...rows,
    "",
  ].join("\n");
}

function defaultOf({ default: value }: Schema): string {
  return value === undefined ? "" : `default ${cell(`\`${JSON.stringify(value)}\``)}`;
}

/** A value's type and bounds in words. */
function inWords(schema: Schema): string {
  if (schema.const !== undefined) return `\`${JSON.stringify(schema.const)}\``;
  if (schema.enum !== undefined) return schema.enum.map((value) => `\`${JSON.stringify(value)}\``).join(", ");
  const variants = variantsOf(schema);
  if (variants.length > 0) return [...new Set(variants.map(inWords))].join("; or ");
  if (schema.type === "array")
    return `list of ${range(schema.minItems, schema.maxItems)}${inWords(schema.items ?? {})}`;
  if (typeof schema.additionalProperties === "object")
    return `object: names to ${inWords(schema.additionalProperties)}`;
  if (schema.type === "string") return textOf(schema);
  if (schema.type === "integer" || schema.type === "number")
    return `${schema.type} ${range(schema.minimum, schema.maximum)}`.trim();
  return schema.type ?? "any";
}

/** Longer patterns help nobody: the description says what they mean. */
const MAX_PATTERN = 48;

function textOf({ pattern, format, minLength, maxLength }: Schema): string {
  if (format !== undefined) return format;
  const length =
    minLength === undefined && maxLength === undefined ? "" : ` of ${range(minLength, maxLength)}characters`;
  return `text${length}${pattern === undefined || pattern.length > MAX_PATTERN ? "" : ` \`${pattern}\``}`;
}

function range(least: number | undefined, most: number | undefined): string {
  const high = most === Number.MAX_SAFE_INTEGER ? undefined : most;
  if (least === undefined && high === undefined) return "";
  if (high === undefined) return `${least} or more `;
  return least === undefined ? `at most ${high} ` : `${least} to ${high} `;
}

function cell(text: string): string {
  return text.replaceAll("|", "\\|").trim();
}
