import * as z from "zod";
import { approverFindings, approvers } from "./approvers.ts";
import { fromBase64 } from "./bytes.ts";
import { certificateFindings, certificates } from "./certificates.ts";
import { type DocumentFinding, FindingsError, listed, repeatFindings, schemaFindings } from "./findings.ts";
import { sha256Hex } from "./hash.ts";
import { parseCommentedJson } from "./json-comments.ts";
import { credential, type DeepReadonly, name, printable, sha256Tag } from "./policy-fields.ts";
import {
  credentialFiles,
  deviceId,
  MACHINE_SHIMS,
  moduleFindings,
  modulesSchema,
  type PolicyModule,
  pinFields,
  reachFields,
} from "./policy-modules.ts";
import { SANDBOX_FEATURES, type SandboxFeature } from "./runtime/features.ts";
import { rate, scopeSchema } from "./scope.ts";
import { scopeFindings } from "./scope-rules.ts";

export const POLICY_MAX_BYTES = 1 << 20;
export const POLICY_LIMITS = { maxBytes: POLICY_MAX_BYTES, maxDepth: 16 };
/** Each has shims of its own, of which a machine has 16, and a log-in record in the TPM. */
const MAX_TOKENS = 4;

/** Those that a report has room for (EVIDENCE.md). */
const MAX_KEYS = 256;
/** Four for each scope that there can be. */
const MAX_CALLERS = 256;

const sandboxFeature = z.enum(SANDBOX_FEATURES.map(({ name }) => name) as [SandboxFeature, ...SandboxFeature[]]);
const tokenFields = { label: printable(32).min(1), serial: printable(16).min(1) };
const pinnedToken = z.strictObject({ ...tokenFields, pin: credential });
const commonFields = {
  version: z.literal(3),
  serial: z.int().min(1),
  owner: z.string().min(1).max(128),
  reviewBy: z.iso.date(),
  devices: z.array(deviceId).max(128),
  sandbox: z.strictObject({ lacks: z.array(sandboxFeature).max(SANDBOX_FEATURES.length) }),
  onViolation: z.enum(["kill", "report"]),
  onLoginLost: z.enum(["reboot", "stop"]),
  keys: z
    .record(
      name,
      z.strictObject({
        spki: sha256Tag,
        does: z.enum(["sign", "decrypt", "unwrap"]),
        token: name.optional(),
        accepts: z
          .array(z.enum(["unknown-history"]))
          .max(1)
          .default([]),
        rate: rate.optional(),
      }),
    )
    .refine((keys) => Object.keys(keys).length <= MAX_KEYS, `expected at most ${MAX_KEYS} keys`),
  certificates,
  callers: z
    .record(
      name,
      z.strictObject({
        uid: z.int().min(1).max(0xfffffffe),
        exe: z.array(sha256Tag).min(1).max(16),
        unit: printable(256).min(1).nullable(),
      }),
    )
    .refine((callers) => Object.keys(callers).length <= MAX_CALLERS, `expected at most ${MAX_CALLERS} callers`),
  approvers,
  scopes: z.array(scopeSchema).min(1).max(64),
};
const documentSchema = z.strictObject({
  ...commonFields,
  modules: modulesSchema,
  tokens: tokenRecord(z.strictObject({ module: name, ...pinnedToken.shape })),
});

/** The short form of a document with one module: what that module's shims may reach stands at the top. */
const shortFields = {
  ...commonFields,
  ...reachFields,
  nodes: reachFields.nodes.optional(),
  module: z.strictObject(pinFields),
};
const oneModule = z
  .strictObject({
    ...shortFields,
    tokens: tokenRecord(pinnedToken),
    credentials: z.strictObject({ files: credentialFiles }).default({ files: {} }),
  })
  .transform(toLongForm);
/** Shorter still, with one token too. */
const oneToken = z
  .strictObject({
    ...shortFields,
    token: z.strictObject(tokenFields),
    credentials: z.strictObject({ pin: credential, files: credentialFiles }).default({ pin: "hsm-pin", files: {} }),
  })
  .transform(({ token, credentials: { pin, files }, ...rest }) =>
    toLongForm({ ...rest, tokens: { token: { ...token, pin } }, credentials: { files } }),
  );

/** The schemas of the forms that a document may have, for `policyJsonSchema`. */
export const policyForms = {
  "long form": documentSchema,
  "one module": oneModule,
  "one module and one token": oneToken,
} satisfies Readonly<Record<string, z.ZodType>>;

/** A policy document as it is written, without the short forms. See POLICY.md. */
export type PolicyDocument = DeepReadonly<z.input<typeof documentSchema>>;
type LongForm = z.infer<typeof documentSchema>;
type ShortForm = z.infer<z.ZodObject<typeof shortFields>> & {
  readonly credentials: { readonly files: Record<string, string> };
  readonly tokens: Record<string, z.infer<typeof pinnedToken>>;
};
/** A policy whose fields and references hold: whatever the form of the document, every key names its token. Itself a document. */
export interface Policy extends Omit<DeepReadonly<LongForm>, "keys"> {
  readonly keys: Readonly<Record<string, PolicyKey>>;
}
export type PolicyKey = DeepReadonly<LongForm>["keys"][string] & { readonly token: string };
export type PolicyToken = Policy["tokens"][string];
export type Scope = Policy["scopes"][number];
export type MechanismRule = Scope["mechanisms"][number];
export type NamedModule = PolicyModule & { readonly name: string };

/**
 * Reads a policy document. Says nothing about who wrote it: the launch measures its bytes, and a release predicts that measurement.
 * @throws PolicyError `ERR_POLICY_MALFORMED` (not strict JSON with comments) or, as a `FindingsError`, `ERR_POLICY_INVALID` (all findings, the first in the message)
 */
export function parsePolicy(bytes: Uint8Array): Policy {
  const json = parseCommentedJson(bytes, "policy", POLICY_LIMITS);
  const result = schemaFor(json).safeParse(json);
  if (!result.success) throw new FindingsError("policy", [...schemaFindings(result.error), ...labelledKeys(json)]);
  const policy = withKeyTokens(result.data);
  const findings = [
    ...moduleFindings(policy.modules, policy.devices),
    ...tokenFindings(result.data),
    ...shimFindings(result.data),
    ...brokenReferences(policy),
  ];
  if (findings.length > 0) throw new FindingsError("policy", findings);
  return policy;
}

/** A key that has only a label: the schema says what is wrong there, and this what to do. */
function labelledKeys(json: unknown): readonly DocumentFinding[] {
  return Object.entries(asObject(asObject(json)["keys"])).flatMap(([name, value]) => {
    const key = asObject(value);
    if (Object.hasOwn(key, "spki") || !Object.hasOwn(key, "label")) return [];
    const message = `keys.${name}: a key is named by its spki, the SHA-256 of its public key, never by its label`;
    return [{ path: ["keys", name, "label"], message }];
  });
}

function asObject(value: unknown): Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null ? { ...value } : {};
}

/** The policy's tokens with their names, in the order in which they are logged in to and reported. */
export function sortedTokens(policy: Policy): readonly (PolicyToken & { readonly name: string })[] {
  return sortedByName(policy.tokens);
}

/** The policy's modules with their names, in the order in which they are measured. */
export function sortedModules(policy: Policy): readonly NamedModule[] {
  return sortedByName(policy.modules);
}

/** The first of the policy's modules: there is one at least. */
export function firstModule(policy: Policy): NamedModule {
  const [module] = sortedModules(policy);
  if (module === undefined) throw new TypeError("policy: a parsed policy has a module");
  return module;
}

/** The module through which a token of the policy is reached. @throws TypeError for a token that the policy does not name */
export function moduleOf(policy: Policy, tokenName: string): NamedModule {
  const name = Object.hasOwn(policy.tokens, tokenName) ? policy.tokens[tokenName]?.module : undefined;
  const module = name === undefined ? undefined : policy.modules[name];
  if (name === undefined || module === undefined)
    throw new TypeError(`token ${tokenName}: the policy does not name it`);
  return { name, ...module };
}

/** Which of the three forms it is, by the fields that only one of them has. */
function schemaFor(json: unknown): typeof documentSchema | typeof oneModule | typeof oneToken {
  const has = (field: string) => typeof json === "object" && json !== null && Object.hasOwn(json, field);
  if (!has("module")) return documentSchema;
  return has("token") ? oneToken : oneModule;
}

function toLongForm(short: ShortForm): LongForm {
  const { module, profile, nodes, writable, connect, shims, spares, credentials, tokens, ...rest } = short;
  const reach = { profile, nodes: nodes ?? [], writable, connect, shims, spares };
  const named = Object.entries(tokens).map(([name, token]) => [name, { module: "module", ...token }]);
  return {
    ...rest,
    modules: { module: { ...module, ...reach, files: credentials.files } },
    tokens: Object.fromEntries(named),
  };
}

/** Of the only token, when there is one; a key without a token among several is a finding. */
function withKeyTokens(document: LongForm): Policy {
  const only = Object.keys(document.tokens)[0] ?? "";
  const keys = Object.entries(document.keys).map(([name, { token, accepts, ...key }]) => [
    name,
    { ...key, token: token ?? only, accepts },
  ]);
  return { ...document, keys: Object.fromEntries(keys) };
}

/** Every token has shims of its own, as many as its module says. */
function shimFindings({ tokens, modules }: LongForm): readonly DocumentFinding[] {
  const each = Object.values(tokens).map(({ module }) => own(modules, module));
  const all = each.reduce((sum, module) => sum + (module?.shims ?? 0) + (module?.spares ?? 0), 0);
  if (all <= MACHINE_SHIMS) return [];
  const message = `tokens: ${all} shims and spares in all, and a machine has room for ${MACHINE_SHIMS}`;
  return [{ path: ["tokens"], message }];
}

function tokenFindings({ tokens, keys, modules }: LongForm): readonly DocumentFinding[] {
  const several = Object.keys(tokens).length > 1;
  const all = Object.entries(tokens);
  return [
    ...all
      .filter(([, { module }]) => own(modules, module) === undefined)
      .map(([name, { module }]) => ({
        path: ["tokens", name, "module"],
        message: `tokens.${name}: unknown module ${module}`,
      })),
    ...Object.keys(modules)
      .filter((name) => !all.some(([, { module }]) => module === name))
      .map((name) => ({ path: ["modules", name], message: `modules.${name}: no token is reached through it` })),
    ...repeatFindings(
      all.map(([name, { label, serial }]) => ({ value: `${label}/${serial}`, path: ["tokens", name] })),
      (double) => `tokens: two entries with the label and serial ${double}`,
    ),
    ...repeatFindings(
      all.map(([name, { pin }]) => ({ value: pin, path: ["tokens", name, "pin"] })),
      (double) => `tokens: two entries with the credential ${double}`,
    ),
    ...Object.entries(keys).flatMap(([name, { token }]) => {
      if (token === undefined)
        return several ? [{ path: ["keys", name], message: `keys.${name}: no token of several named` }] : [];
      const path = ["keys", name, "token"];
      return Object.hasOwn(tokens, token) ? [] : [{ path, message: `keys.${name}: unknown token ${token}` }];
    }),
  ];
}

function brokenReferences(policy: Policy): readonly DocumentFinding[] {
  const unsorted = policy.devices.findIndex((device, index) => device < (policy.devices[index - 1] ?? ""));
  return [
    ...repeatFindings(
      policy.scopes.map(({ name }, index) => ({ value: name, path: ["scopes", index, "name"] })),
      (double) => `scopes: duplicate name ${double}`,
    ),
    ...spkiFindings(policy.keys),
    ...certificateFindings(policy),
    ...arrivalFindings(policy),
    ...scopeFindings(policy),
    ...approverFindings(policy),
    ...(unsorted < 0 ? [] : [{ path: ["devices", unsorted], message: "devices: not sorted" }]),
    ...repeatFindings(
      listed(["sandbox", "lacks"], policy.sandbox.lacks),
      (double) => `sandbox.lacks: ${double} is listed twice`,
    ),
  ];
}

/** One key may lie on two tokens; it is one key all the same, and does one thing. */
function spkiFindings(keys: Policy["keys"]): readonly DocumentFinding[] {
  const uses = new Map<string, PolicyKey["does"]>();
  const rates = new Map(
    Object.values(keys)
      .toReversed()
      .map(({ spki, rate }) => [spki, rate]),
  );
  return [
    ...repeatFindings(
      Object.entries(keys).map(([name, { spki, token }]) => ({
        value: `${spki} on token ${token}`,
        path: ["keys", name, "spki"],
      })),
      (double) => `keys: two entries with the spki ${double}`,
    ),
    ...Object.entries(keys).flatMap(([name, { spki, does }]) => {
      const first = uses.get(spki) ?? does;
      uses.set(spki, first);
      return first === does ? [] : [{ path: ["keys", name, "does"], message: `keys: two uses of the spki ${spki}` }];
    }),
    ...Object.entries(keys).flatMap(([name, { spki, rate }]) => {
      const first = rates.get(spki);
      const same = first?.perMinute === rate?.perMinute && first?.burst === rate?.burst;
      return same ? [] : [{ path: ["keys", name, "rate"], message: `keys: two rates of the spki ${spki}` }];
    }),
  ];
}

/** A key that arrives by unwrap does what the same key does elsewhere. */
function arrivalFindings({ keys, scopes }: Policy): readonly DocumentFinding[] {
  const uses = new Map(Object.values(keys).map(({ spki, does }) => [spki as string, does as string]));
  return scopes.flatMap(({ name, unwraps = [] }, index) =>
    unwraps.flatMap((rule, at) => {
      const spki = `sha256:${sha256Hex(fromBase64(rule.publicKey))}`;
      const first = uses.get(spki) ?? rule.does;
      uses.set(spki, first);
      const message = `scope ${name}: unwraps ${rule.key}: the same key does ${first} elsewhere`;
      return first === rule.does ? [] : [{ path: ["scopes", index, "unwraps", at, "does"], message }];
    }),
  );
}

function tokenRecord<T extends z.ZodType>(token: T): z.ZodRecord<typeof name, T> {
  return z
    .record(name, token)
    .refine((tokens) => inRange(Object.keys(tokens).length, 1, MAX_TOKENS), `expected 1 to ${MAX_TOKENS} tokens`);
}

function sortedByName<T>(entries: Readonly<Record<string, T>>): readonly (T & { readonly name: string })[] {
  return Object.entries(entries)
    .map(([name, entry]) => ({ name, ...entry }))
    .sort((a, b) => (a.name < b.name ? -1 : 1));
}

function own<T>(record: Readonly<Record<string, T>>, key: string): T | undefined {
  return Object.hasOwn(record, key) ? record[key] : undefined;
}

function inRange(value: number, min: number, max: number): boolean {
  return value >= min && value <= max;
}
