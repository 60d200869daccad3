// API.md from the docstrings: every name of src/index.ts. `node scripts/api.ts` writes it; a test compares.
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { parseAst } from "rolldown/parseAst";

const folder = join(import.meta.dirname, "..");
const REFERENCE = join(folder, "API.md");

type Statement = ReturnType<typeof parseAst>["body"][number];
type Declaration = Extract<Statement, { type: "ExportNamedDeclaration" }>["declaration"];
type ClassDeclaration = Extract<NonNullable<Declaration>, { superClass: unknown }>;
type Member = ClassDeclaration["body"]["body"][number];

/** One source file, parsed. */
interface Source {
  readonly text: string;
  readonly body: readonly Statement[];
}

/** An exported declaration and where it stands. */
interface Exported {
  readonly name: string;
  readonly source: Source;
  readonly start: number;
  readonly declaration: NonNullable<Declaration>;
}

export async function apiReference(): Promise<string> {
  const exported = await exportedDeclarations();
  const classes = exported.filter(({ declaration }) => declaration.type === "ClassDeclaration");
  const others = exported.filter(({ declaration }) => declaration.type !== "ClassDeclaration");
  return `${[
    "# API of node-tpm2-tss",
    "Generated from the docstrings by `scripts/api.ts`. `README.md` explains; this lists.",
    "## Tpm",
    ...(await commandGroups("tpm.ts", "Tpm")),
    "## Handles and errors",
    ...classes.filter(({ name }) => name !== "Tpm").map(classSection),
    "## Types, constants, functions",
    ...others.map(otherSection),
  ].join("\n\n")}\n`;
}

// Names

async function exportedDeclarations(): Promise<readonly Exported[]> {
  const index = await parse("index.ts");
  const found: Exported[] = [];
  for (const statement of index.body) {
    if (statement.type !== "ExportNamedDeclaration" || statement.source === null) continue;
    const declarations = declarationsOf(await parse(statement.source.value));
    for (const specifier of statement.specifiers) {
      const name = specifier.exported.type === "Identifier" ? specifier.exported.name : "";
      const declaration = declarations.get(name);
      if (declaration === undefined) throw new Error(`index.ts: ${name} is not declared where it comes from`);
      found.push(declaration);
    }
  }
  return found;
}

function declarationsOf(source: Source): ReadonlyMap<string, Exported> {
  const declarations = new Map<string, Exported>();
  for (const statement of source.body) {
    if (statement.type !== "ExportNamedDeclaration" || statement.declaration === null) continue;
    const { declaration, start } = statement;
    const name = nameOf(declaration);
    declarations.set(name, { name, source, start, declaration });
  }
  return declarations;
}

function nameOf(declaration: NonNullable<Declaration>): string {
  const named = declaration.type === "VariableDeclaration" ? declaration.declarations[0]?.id : declaration;
  const id = named !== undefined && "id" in named ? named.id : named;
  return id?.type === "Identifier" ? id.name : "";
}

async function parse(file: string): Promise<Source> {
  const text = await readFile(join(folder, "src", file), "utf8");
  return { text, body: parseAst(text, { lang: "ts" }).body };
}

// The command groups: `Tpm` and what it extends, the general ones first.

async function commandGroups(file: string, name: string): Promise<readonly string[]> {
  const found = declarationsOf(await parse(file)).get(name);
  if (found === undefined || found.declaration.type !== "ClassDeclaration")
    throw new Error(`${file}: no class ${name}`);
  const { source, start, declaration } = found;
  const intro = docBefore(source.text, start);
  const methods = publicMembers(declaration).flatMap((member) => [
    `#### ${memberName(source.text, member)}`,
    docBefore(source.text, member.start),
    fence(signature(source.text, member)),
  ]);
  const base = declaration.superClass?.type === "Identifier" ? declaration.superClass.name : null;
  const inherited = base === null ? [] : await commandGroups(await fileOf(source, base), base);
  const own = name === "Tpm" ? [intro, ...methods] : methods.length > 0 ? [`### ${intro}`, ...methods] : [];
  const sections = own.filter((section) => section !== "");
  return name === "Tpm" ? [...sections, ...inherited] : [...inherited, ...sections];
}

async function fileOf(source: Source, name: string): Promise<string> {
  for (const statement of source.body) {
    if (statement.type !== "ImportDeclaration") continue;
    if (statement.specifiers.some(({ local }) => local.name === name)) return statement.source.value;
  }
  throw new Error(`${name} is not imported`);
}

function publicMembers({ body }: ClassDeclaration): readonly Member[] {
  return body.body.filter(
    (member) =>
      (member.type === "MethodDefinition" || member.type === "PropertyDefinition") &&
      member.key.type !== "PrivateIdentifier" &&
      (member.accessibility ?? "public") === "public" &&
      !(member.type === "MethodDefinition" && member.kind === "constructor"),
  );
}

function memberName(text: string, member: Member): string {
  if (!("key" in member)) return "";
  const key = text.slice(member.key.start, member.key.end);
  return "computed" in member && member.computed ? `[${key}]` : key;
}

/** The member without its body. */
function signature(text: string, member: Member): string {
  const body = member.type === "MethodDefinition" ? member.value.body : null;
  const head = text.slice(member.start, body?.start ?? member.end).trim();
  return dedent(head.replace(/^async /, "").replace(/^static async /, "static "), 2).replace(/;$/, "");
}

// Sections

function classSection({ name, source, start, declaration }: Exported): string {
  if (declaration.type !== "ClassDeclaration") return "";
  const head = source.text.slice(declaration.start, declaration.body.start).trim();
  const members = publicMembers(declaration).map((member) => {
    const doc = docComment(source.text, member.start);
    return `${doc === "" ? "" : `${indent(dedent(doc, 2), 2)}\n`}${indent(signature(source.text, member), 2)};`;
  });
  const body = members.length > 0 ? `${head} {\n${members.join("\n")}\n}` : head;
  return section(name, docBefore(source.text, start), body);
}

function otherSection({ name, source, start, declaration }: Exported): string {
  const body = declaration.type === "FunctionDeclaration" ? declaration.body : null;
  const code = source.text.slice(declaration.start, body?.start ?? declaration.end).trim();
  return section(name, docBefore(source.text, start), code);
}

const section = (name: string, doc: string, code: string) =>
  [`### ${name}`, doc, fence(code)].filter((part) => part !== "").join("\n\n");

const fence = (code: string) => `\`\`\`ts\n${code}\n\`\`\``;
const dedent = (text: string, by: number) => text.replaceAll(`\n${" ".repeat(by)}`, "\n");
const indent = (text: string, by: number) => text.replace(/^(?=.)/gm, " ".repeat(by));

// Docstrings

/** The comment that ends where `start` begins, as it stands; empty when there is none. */
function docComment(text: string, start: number): string {
  const before = text.slice(0, start).trimEnd();
  return before.endsWith("*/") ? before.slice(before.lastIndexOf("/**")) : "";
}

/** Its text, in one paragraph. */
function docBefore(text: string, start: number): string {
  const comment = docComment(text, start);
  return comment
    .replace(/^\/\*\*|\*\/$/g, "")
    .replace(/^\s*\* ?/gm, "")
    .trim()
    .replace(/\s*\n\s*/g, " ");
}

if (import.meta.main) await writeFile(REFERENCE, await apiReference());
