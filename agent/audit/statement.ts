import * as z from "zod";

const hex64 = z.string().regex(/^[0-9a-f]{64}$/);
const base64 = (bytes: number) =>
  z
    .string()
    .min(4)
    .max(4 * Math.ceil(bytes / 3))
    .regex(/^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$/);
const seq = z.int().min(1);

/** What the log says of itself, in records whose `operation` is the statement's `kind` (AUDIT.md). */
export const statementSchema = z.discriminatedUnion("kind", [
  z.strictObject({ kind: z.literal("repair"), bytes: z.int().min(1) }),
  z.strictObject({ kind: z.literal("retention"), first: z.int().min(2) }),
  z.strictObject({
    kind: z.literal("certificate"),
    public: base64(512),
    attest: base64(512),
    signature: base64(512),
  }),
  z.strictObject({
    kind: z.literal("checkpoint"),
    seq,
    hash: hex64,
    key: z.string().regex(/^000b[0-9a-f]{64}$/),
    signature: base64(128),
  }),
]);

export type AuditStatement = Readonly<z.infer<typeof statementSchema>>;
export type StatementOf<K extends AuditStatement["kind"]> = Extract<AuditStatement, { readonly kind: K }>;

export const STATEMENT_KINDS = ["repair", "retention", "certificate", "checkpoint"] as const;

/** The same statement with its fields in the format's order. */
export function orderStatement(statement: AuditStatement): AuditStatement {
  switch (statement.kind) {
    case "repair":
      return { kind: "repair", bytes: statement.bytes };
    case "retention":
      return { kind: "retention", first: statement.first };
    case "certificate": {
      const { attest, signature } = statement;
      return { kind: "certificate", public: statement.public, attest, signature };
    }
    case "checkpoint": {
      const { seq, hash, key, signature } = statement;
      return { kind: "checkpoint", seq, hash, key, signature };
    }
    default:
      return statement satisfies never;
  }
}
