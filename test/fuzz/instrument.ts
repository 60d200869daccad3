import { build } from "esbuild";
import { parseAst } from "rolldown/parseAst";

export interface Instrumented {
  /** CommonJS that counts in `__cov`, to be given together with `require` and `module`. */
  readonly code: string;
  readonly counters: number;
  /** Numbers and texts that the source compares with, as bytes. */
  readonly dictionary: readonly Uint8Array[];
}

/** Bundles TypeScript with the project's own files inside and packages outside, and puts a counter on every branch. */
export async function instrument(source: string, directory: string): Promise<Instrumented> {
  const { outputFiles } = await build({
    stdin: { contents: source, resolveDir: directory, loader: "ts" },
    bundle: true,
    write: false,
    format: "cjs",
    platform: "node",
    target: "node26",
    packages: "external",
    legalComments: "none",
  });
  return count(outputFiles[0]?.text ?? "");
}

/** A node of the ESTree, as far as it matters here. */
interface Node {
  readonly type: string;
  readonly start: number;
  readonly end: number;
  readonly [field: string]: unknown;
}

function count(text: string): Instrumented {
  const edits: { readonly at: number; readonly closing: boolean; readonly insert: string }[] = [];
  const tokens = new Map<string, Uint8Array>();
  let counters = 0;
  const open = (at: number, insert: string) => edits.push({ at, closing: false, insert });
  const close = (at: number, insert: string) => edits.push({ at, closing: true, insert });
  const counter = () => `__cov[${counters++}]++`;
  const wrap = (node: Node, before: string, after: string, inside: () => void) => {
    open(node.start, before);
    inside();
    close(node.end, after);
  };
  const asExpression = (node: Node) => wrap(node, `(${counter()},(`, "))", () => visit(node));
  const asStatement = (node: Node) => {
    if (node.type === "BlockStatement") visit(node);
    else wrap(node, `{${counter()};`, "}", () => visit(node));
  };

  /** Children in the order of the text, some of them counted. */
  const visit = (node: Node): void => {
    for (const token of tokensOf(node)) tokens.set(token.join(), token);
    if (node.type === "BlockStatement") open(node.start + 1, `${counter()};`);
    const { statements, expressions } = countedFields(node);
    if (node.type === "SwitchCase") {
      const [first] = childrenOf(node["consequent"]);
      if (first !== undefined) open(first.start, `${counter()};`);
    }
    const children = Object.entries(node).flatMap(([field, value]) =>
      childrenOf(value).map((child) => ({ field, child })),
    );
    for (const { field, child } of children.sort((a, b) => a.child.start - b.child.start)) {
      if (statements.includes(field)) asStatement(child);
      else if (expressions.includes(field)) asExpression(child);
      else visit(child);
    }
  };
  // A Program has the same few fields as every other node here.
  visit(parseAst(text) as unknown as Node);
  return { code: applyEdits(text, edits), counters, dictionary: [...tokens.values()] };
}

function countedFields(node: Node): {
  readonly statements: readonly string[];
  readonly expressions: readonly string[];
} {
  switch (node.type) {
    case "IfStatement":
      return { statements: ["consequent", "alternate"], expressions: [] };
    case "ForStatement":
    case "ForInStatement":
    case "ForOfStatement":
    case "WhileStatement":
    case "DoWhileStatement":
      return { statements: ["body"], expressions: [] };
    case "ConditionalExpression":
      return { statements: [], expressions: ["consequent", "alternate"] };
    case "LogicalExpression":
      return { statements: [], expressions: ["right"] };
    case "AssignmentExpression":
      return { statements: [], expressions: ["&&=", "||=", "??="].includes(String(node["operator"])) ? ["right"] : [] };
    case "ArrowFunctionExpression":
      return { statements: [], expressions: (node["body"] as Node).type === "BlockStatement" ? [] : ["body"] };
    default:
      return { statements: [], expressions: [] };
  }
}

function childrenOf(value: unknown): readonly Node[] {
  if (Array.isArray(value)) return value.flatMap(childrenOf);
  return typeof value === "object" && value !== null && "type" in value && "start" in value ? [value as Node] : [];
}

/** At one place, what ends there closes before anything else opens; both otherwise in the order of the walk. */
function applyEdits(text: string, edits: readonly { at: number; closing: boolean; insert: string }[]): string {
  const sorted = edits.toSorted((a, b) => a.at - b.at || Number(b.closing) - Number(a.closing));
  let [code, from] = ["", 0];
  for (const { at, insert } of sorted) {
    code += text.slice(from, at) + insert;
    from = at;
  }
  return code + text.slice(from);
}

function tokensOf(node: Node): readonly Uint8Array[] {
  if (node.type === "TemplateElement") return textTokens(String((node["value"] as { cooked?: unknown }).cooked ?? ""));
  if (node.type !== "Literal") return [];
  const { value } = node;
  if (typeof value === "string") return textTokens(value);
  if (typeof value === "bigint") return numberTokens(value);
  return typeof value === "number" && Number.isSafeInteger(value) ? numberTokens(BigInt(value)) : [];
}

function textTokens(text: string): readonly Uint8Array[] {
  if (text.length === 0 || text.length > 128) return [];
  const isHex = text.length >= 4 && text.length % 2 === 0 && /^[0-9a-f]+$/.test(text);
  return [new TextEncoder().encode(text), ...(isHex ? [Uint8Array.fromHex(text)] : [])];
}

/** Both byte orders in the narrowest width and the wider ones that formats use. */
function numberTokens(value: bigint): readonly Uint8Array[] {
  if (value < 0n || value > 0xffff_ffff_ffff_ffffn) return [];
  const widths = [1, 2, 4, 8].filter((width) => value < 1n << BigInt(8 * width)).slice(0, 3);
  return widths.flatMap((width) => {
    const big = Uint8Array.from({ length: width }, (_, index) =>
      Number((value >> BigInt(8 * (width - 1 - index))) & 0xffn),
    );
    return width === 1 ? [big] : [big, big.toReversed()];
  });
}
