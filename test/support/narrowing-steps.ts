import { sha256Hex } from "../../policy/index.ts";
import { WRAPPED } from "./decision-samples.ts";
import { type PolicyDocument, sshKeyLine, twoTokenDocument } from "./policy-document.ts";

// A policy that limits everything, and for each limit one step that narrows it. Undoing a step widens.

type Fields = Record<string, unknown>;

export interface NarrowingStep {
  /** The field that a change of this step is told by. */
  readonly field: string;
  readonly apply: (document: PolicyDocument) => void;
  /** Whether `decide` alone can see it: else a bucket, a clock or the launch does. */
  readonly decided: boolean;
}

const hex = (byte: string) => `sha256:${byte.repeat(32)}`;
const SPKI = "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE";

/** Every field of a policy is in use, and wide. */
export function wideDocument(): PolicyDocument {
  const document = twoTokenDocument();
  Object.assign(document, {
    approvers: { alice: person("A"), bob: person("F"), carol: person("G"), dora: person("H") },
  });
  document.callers = {
    signer: { uid: 2001, exe: [hex("5e"), hex("5f")], unit: null },
    other: { uid: 2003, exe: [hex("6f")], unit: "other.service" },
  };
  const on = (spki: string, does: string) => ({
    spki: hex(spki),
    does,
    token: "signing",
    accepts: ["unknown-history"],
  });
  document.keys = {
    ec: { ...on("11", "sign"), rate: { perMinute: 100, burst: 20 } },
    rsa: on("22", "sign"),
    vault: on("33", "decrypt"),
    intake: on("44", "unwrap"),
    rsa2: on("23", "sign"),
    spare: on("55", "sign"),
  };
  document.scopes = [
    {
      ...{ name: "signing", caller: "signer", keys: ["ec", "rsa", "rsa2"], audit: "written" },
      mechanisms: [
        { type: "CKM_ECDSA", digest: "sha256" },
        { type: "CKM_ECDSA_SHA256" },
        { type: "CKM_RSA_PKCS_PSS", digest: "sha384" },
        { type: "CKM_RSA_X_509", accepts: ["raw-rsa"] },
      ],
      ...{ rate: { perMinute: 600, burst: 60 }, budget: { operations: 1000 }, connections: 100, inFlight: 100 },
      ...{ valid: { from: "2026-11-01T00:00:00Z", until: "2026-12-31T00:00:00Z" }, lifetime: "PT8H", idle: "PT1H" },
      approvals: { required: 1, of: ["alice", "bob", "carol", "dora"], for: "operation", window: "PT1H" },
    },
    {
      ...{ name: "vault", caller: "other", keys: ["vault"], audit: "written", freezeBit: 3 },
      mechanisms: [
        { type: "CKM_RSA_PKCS_OAEP", digest: "sha256" },
        { type: "CKM_RSA_PKCS", accepts: ["padding-oracle"] },
      ],
      failures: { perHour: 60, burst: 16 },
    },
    {
      ...{ name: "intake", caller: "other", keys: ["intake"], audit: "durable" },
      mechanisms: [{ type: "CKM_RSA_PKCS_OAEP", digest: "sha1", label: "aa" }],
      unwraps: [arrival("one", "61", null), arrival("two", "62", `sha256:${sha256Hex(WRAPPED)}`)],
      approvals: { required: 1, of: ["alice"], for: "window", window: "PT1H" },
    },
    {
      ...{ name: "arrived", caller: "other", keys: ["one"], from: "intake", audit: "written" },
      mechanisms: [{ type: "CKM_ECDSA", digest: "sha256" }],
    },
  ];
  return document;
}

function person(last: string): Fields {
  return { key: `${sshKeyLine(last)} x@y`, notFor: [] };
}

function arrival(key: string, byte: string, blob: string | null): Fields {
  const publicKey = Buffer.from(`${Buffer.from(SPKI, "base64").toString("hex")}${byte.repeat(64)}`, "hex");
  return {
    ...{ key, publicKey: publicKey.toString("base64"), does: "sign", where: "session", label: key, blob },
    mechanisms: ["CKM_ECDSA", "CKM_ECDSA_SHA256"],
  };
}

export function scopeIn(document: PolicyDocument, name: string): Fields {
  return document.scopes.find((scope) => scope["name"] === name) ?? {};
}

export function entryIn(document: PolicyDocument, group: string, name: string): Fields {
  return ((document[group] ?? {}) as Record<string, Fields>)[name] ?? {};
}

export function listIn(fields: Fields, name: string): Fields[] {
  return (fields[name] ?? []) as Fields[];
}

const set = (scope: string, fields: Fields) => (document: PolicyDocument) =>
  void Object.assign(scopeIn(document, scope), fields);
const setEntry = (group: string, name: string, fields: Fields) => (document: PolicyDocument) =>
  void Object.assign(entryIn(document, group, name), fields);
/** Leaves out what `drop` says, where it is there. */
const without = (scope: string, list: string, drop: (entry: unknown) => boolean) => (document: PolicyDocument) => {
  const fields = scopeIn(document, scope);
  if (Array.isArray(fields[list])) fields[list] = fields[list].filter((entry) => !drop(entry));
};
const isType = (type: string) => (entry: unknown) => (entry as Fields)["type"] === type;
const change = (scope: string, field: string, fields: Fields) => (document: PolicyDocument) =>
  void Object.assign((scopeIn(document, scope)[field] ?? {}) as Fields, fields);

const step = (field: string, apply: NarrowingStep["apply"], decided = false): NarrowingStep => ({
  ...{ field, apply, decided },
});
const seen = (field: string, apply: NarrowingStep["apply"]) => step(field, apply, true);

/** None depends on another, and whatever is done of them leaves a policy. */
export const NARROWING_STEPS: readonly NarrowingStep[] = [
  seen("callers.signer.exe", setEntry("callers", "signer", { exe: [hex("5e")] })),
  seen("callers.signer.unit", setEntry("callers", "signer", { unit: "signer.service" })),
  step("keys.ec.rate.perMinute", (document) => {
    Object.assign(entryIn(document, "keys", "ec")["rate"] as Fields, { perMinute: 99 });
  }),
  step("keys.ec.rate.burst", (document) => {
    Object.assign(entryIn(document, "keys", "ec")["rate"] as Fields, { burst: 1 });
  }),
  seen("keys.rsa.rate", setEntry("keys", "rsa", { rate: { perMinute: 5, burst: 5 } })),
  step("keys.vault.accepts", setEntry("keys", "vault", { accepts: [] })),
  step("keys", (document) => void delete document.keys["spare"]),
  seen("approvers.bob.notFor", setEntry("approvers", "bob", { notFor: ["signer"] })),
  seen(
    "scopes.signing.keys",
    without("signing", "keys", (key) => key === "rsa2"),
  ),
  seen("scopes.signing.mechanisms", without("signing", "mechanisms", isType("CKM_ECDSA"))),
  seen("scopes.signing.mechanisms", without("signing", "mechanisms", isType("CKM_RSA_X_509"))),
  step("scopes.signing.rate.perMinute", change("signing", "rate", { perMinute: 1 })),
  step("scopes.signing.rate.burst", change("signing", "rate", { burst: 59 })),
  seen("scopes.vault.rate", set("vault", { rate: { perMinute: 1, burst: 1 } })),
  step("scopes.signing.budget.operations", change("signing", "budget", { operations: 999 })),
  seen("scopes.vault.budget", set("vault", { budget: { operations: 1 } })),
  seen("scopes.signing.valid.from", change("signing", "valid", { from: "2026-11-01T00:00:01Z" })),
  seen("scopes.signing.valid.until", change("signing", "valid", { until: "2026-12-30T23:59:59Z" })),
  seen("scopes.vault.valid", set("vault", { valid: { from: "2026-11-01T00:00:00Z", until: "2026-12-01T00:00:00Z" } })),
  step("scopes.signing.lifetime", set("signing", { lifetime: "PT7H59M59S" })),
  step("scopes.vault.lifetime", set("vault", { lifetime: "PT720H" })),
  step("scopes.signing.idle", set("signing", { idle: "PT59M" })),
  step("scopes.vault.idle", set("vault", { idle: "PT1H" })),
  step("scopes.signing.connections", set("signing", { connections: 99 })),
  step("scopes.vault.connections", set("vault", { connections: 255 })),
  step("scopes.signing.inFlight", set("signing", { inFlight: 1 })),
  step("scopes.vault.inFlight", set("vault", { inFlight: 255 })),
  seen("scopes.signing.approvals.required", change("signing", "approvals", { required: 2 })),
  seen("scopes.signing.approvals.of", change("signing", "approvals", { of: ["alice", "bob", "dora"] })),
  step("scopes.signing.approvals.window", change("signing", "approvals", { window: "PT15M" })),
  seen(
    "scopes.vault.approvals",
    set("vault", { approvals: { required: 1, of: ["carol"], for: "window", window: "PT1H" } }),
  ),
  step("scopes.signing.freezeBit", set("signing", { freezeBit: 7 })),
  step("scopes.signing.audit", set("signing", { audit: "durable" })),
  seen("scopes.vault.mechanisms", without("vault", "mechanisms", isType("CKM_RSA_PKCS"))),
  step("scopes.vault.failures.perHour", change("vault", "failures", { perHour: 59 })),
  step("scopes.vault.failures.burst", change("vault", "failures", { burst: 15 })),
  seen(
    "scopes.intake.unwraps",
    without("intake", "unwraps", (rule) => (rule as Fields)["key"] === "two"),
  ),
  step("scopes.intake.unwraps.one.mechanisms", (document) => {
    Object.assign(listIn(scopeIn(document, "intake"), "unwraps")[0] ?? {}, { mechanisms: ["CKM_ECDSA"] });
  }),
  seen("scopes.intake.unwraps.one.blob", (document) => {
    Object.assign(listIn(scopeIn(document, "intake"), "unwraps")[0] ?? {}, { blob: hex("09") });
  }),
  seen("scopes", (document) => {
    document.scopes = document.scopes.filter((scope) => scope["name"] !== "arrived");
  }),
];
