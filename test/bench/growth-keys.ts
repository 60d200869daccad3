import { generateKeyPairSync } from "node:crypto";
import { KeyRing, type PublicKeySource } from "../../agent/broker/index.ts";
import { type Policy, parsePolicy, sha256Hex } from "../../policy/index.ts";
import { documentBytes, type PolicyDocument, policyDocument } from "../support/policy-document.ts";
import {
  benchSlot,
  makeToken,
  native,
  openBench,
  runTokenTool,
  SOFTHSM,
  startShim,
  TEST_PIN,
  type Token,
  writeHostProfile,
} from "../support/shim-fixture.ts";
import type { Suite } from "./bench.ts";
import { decisionTime, LIMITS, lookUpTime, MECHANISMS } from "./decision-time.ts";
import { ownTime } from "./repeat.ts";
import { Measured, sizesFor } from "./series.ts";

const SIZES = [1, 3, 10, 30, 100, 300, 1000] as const;
/** A document's (POLICY.md), and a shim's (SHIM.md). */
const DOCUMENT_SIZES = [2, 4, 16, 64, 256] as const;

/** `growth-keys`: what a decision and a look-up cost. `growth-keys-open`: what a launch does with all keys. */
export const keyGrowthSuite: Suite = {
  ids: ["growth-keys", "growth-keys-open"],
  run: async (wanted, { iterations }) => {
    const measured = new Measured();
    const sources = publicKeys(SIZES.at(-1) ?? 1);
    for (const size of sizesFor(SIZES, iterations)) await measure(measured, sources.slice(0, size), iterations);
    if (wanted.has("growth-keys-open")) await measureLaunch(measured, sources, iterations);
    const what = `A document may have ${DOCUMENT_SIZES.at(-1)} keys, those that a report has room for, and a shim serves as many. Above that the parts behind the document are measured, with a scope for each key`;
    const x = { name: "keys", unit: "" };
    return [
      {
        ...{ id: "growth-keys", what: `${what}. Of the last key`, x },
        y: { name: "time", unit: "us" },
        lines: measured.lines({ decide: "constant", find: "constant" }),
      },
      {
        ...{ id: "growth-keys-open", what, x, y: { name: "time", unit: "ms" } },
        lines: measured.lines({
          ...{ "parse the document": "linear", "make the ring": "linear", "list a token's keys, in a shim": "linear" },
        }),
      },
    ].filter(({ id }) => wanted.has(id));
  },
};

async function measure(measured: Measured, sources: readonly NamedKey[], iterations: number): Promise<void> {
  const size = sources.length;
  const policy = policyWith(sources);
  const byName = new Map(sources.map((source) => [source.label, source]));
  const ring = new KeyRing(policy, byName);
  const [name, scope] = [`key-${size - 1}`, policy.scopes.at(-1)];
  const find = () => {
    if (scope === undefined || ring.find(scope, name) === null) throw new Error("no key");
  };
  measured.add("decide", size, await decisionTime(policy, `of-${name}`, name, iterations));
  measured.add("find", size, await lookUpTime(iterations, find));
  measured.add("make the ring", size, await ownTime(5, () => new KeyRing(policy, byName)));
}

async function measureLaunch(measured: Measured, sources: readonly NamedKey[], iterations: number): Promise<void> {
  const bench = openBench();
  try {
    const token = makeToken(bench);
    let made = 2;
    for (const size of sizesFor(DOCUMENT_SIZES, iterations)) {
      const bytes = documentBytes(withKeys(policyDocument(), sources.slice(0, size)));
      measured.add("parse the document", size, await ownTime(10 * iterations, () => parsePolicy(bytes)));
      for (; made < size; made++) addKey(token, made);
      const listed = await listTime(token, writeHostProfile(bench, token), Math.ceil(iterations / 4));
      measured.add("list a token's keys, in a shim", size, listed);
    }
  } finally {
    bench.remove();
  }
}

function addKey(token: Token, index: number): void {
  const name = ["--id", `${index}`.padStart(4, "0"), "--label", `key-${index}`];
  runTokenTool(token, ["--keypairgen", "--key-type", "EC:prime256v1", ...name]);
}

/** Milliseconds, by a shim that is logged in. */
async function listTime(token: Token, profile: string, runs: number): Promise<number> {
  const { shim, give, ended } = await startShim(native(), { profile, environment: token.environment });
  const slot = benchSlot(await shim.load(SOFTHSM));
  give(TEST_PIN);
  await shim.login(slot);
  const best = await ownTime(runs, () => shim.keys(slot));
  shim.close();
  await ended;
  return best;
}

interface NamedKey extends PublicKeySource {
  /** Its name in the policy, too. */
  readonly label: string;
}

function publicKeys(count: number): readonly NamedKey[] {
  return Array.from({ length: count }, (_, index) => {
    const { publicKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
    const spki = Uint8Array.from(publicKey.export({ format: "der", type: "spki" }));
    return { spki, id: Uint8Array.of(index >> 8, index & 255), label: `key-${index}` };
  });
}

function withKeys(document: PolicyDocument, keys: readonly NamedKey[]): PolicyDocument {
  const entries = keys.map(({ label, spki }) => [label, { spki: digestOf(spki), does: "sign" }]);
  const scope = { ...LIMITS, name: "of-key-0", key: "key-0", mechanisms: MECHANISMS };
  return { ...document, keys: Object.fromEntries(entries), scopes: [scope] };
}

/** The key and the scope of a parsed document, so many times. */
function policyWith(keys: readonly NamedKey[]): Policy {
  const policy = parsePolicy(documentBytes(withKeys(policyDocument(), keys.slice(0, 1))));
  const [[scope], entry] = [policy.scopes, policy.keys["key-0"]];
  if (scope === undefined || entry === undefined) throw new Error("no key");
  return {
    ...policy,
    keys: Object.fromEntries(keys.map(({ label, spki }) => [label, { ...entry, spki: digestOf(spki) }])),
    scopes: keys.map(({ label }) => ({ ...scope, name: `of-${label}`, keys: [label] })),
  };
}

function digestOf(spki: Uint8Array): `sha256:${string}` {
  return `sha256:${sha256Hex(spki)}`;
}
