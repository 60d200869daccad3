import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { openAudit } from "../../agent/audit/open.ts";
import { serveScope } from "../../agent/scopes/index.ts";
import { parseDescriptorLimit } from "../../agent/scopes/open-connections.ts";
import { comparePolicies, type Policy, parsePolicy, sha256Hex } from "../../policy/index.ts";
import { openBroker, softwareKeys } from "../support/broker-fixture.ts";
import { documentBytes, type PolicyDocument, policyDocument } from "../support/policy-document.ts";
import { native } from "../support/shim-fixture.ts";
import type { Suite } from "./bench.ts";
import { decisionTime, LIMITS, MECHANISMS } from "./decision-time.ts";
import { ownTime } from "./repeat.ts";
import { Measured, sizesFor } from "./series.ts";

const SIZES = [10, 30, 100, 300, 1000, 3000, 10_000] as const;
/** A document's (POLICY.md). */
const DOCUMENT_SIZES = [4, 8, 16, 32, 64] as const;
/** Descriptors that are left to the process beside its sockets'. */
const OTHER_DESCRIPTORS = 512;

/** `growth-scopes`: what a decision costs. `growth-scopes-open`: what a launch and a narrower policy cost. */
export const scopeGrowthSuite: Suite = {
  ids: ["growth-scopes", "growth-scopes-open"],
  run: async (wanted, { iterations }) => {
    const measured = new Measured();
    for (const size of sizesFor(DOCUMENT_SIZES, iterations)) {
      const bytes = documentBytes(withScopes(policyDocument(), size));
      measured.add("parse the document", size, await ownTime(10 * iterations, () => parsePolicy(bytes)));
    }
    const software = softwareKeys();
    for (const size of sizesFor(SIZES, iterations)) await measure(measured, software, size, iterations);
    const what = `A document may have ${DOCUMENT_SIZES.at(-1)} scopes: each is a socket with up to 256 connections, and the agent has descriptors for as many. Above that the parts behind the document are measured, with a policy that no document is`;
    const x = { name: "scopes", unit: "" };
    return [
      {
        ...{ id: "growth-scopes", what: `${what}. One decision in the last scope`, x },
        y: { name: "time", unit: "us" },
        lines: measured.lines({ decide: "constant", "decide about a key that arrived": "constant" }),
      },
      {
        ...{ id: "growth-scopes-open", what, x, y: { name: "time", unit: "ms" } },
        lines: measured.lines({
          ...{ "parse the document": "linear", "open all sockets": "linear" },
          "compare with a narrower policy": "linear",
        }),
      },
    ].filter(({ id }) => wanted.has(id));
  },
};

type Software = ReturnType<typeof softwareKeys>;

async function measure(measured: Measured, software: Software, size: number, iterations: number): Promise<void> {
  const policy = policyWith(size, software);
  measured.add("decide", size, await decisionTime(policy, `scope-${size - 1}`, "release-ec", iterations));
  const arrived = await decisionTime(policy, "arrived", "arrives", iterations);
  measured.add("decide about a key that arrived", size, arrived);
  const narrower = policyWith(size, software);
  const runs = runsFor(size);
  const compared = await ownTime(3 * runs, () => comparePolicies(policy, narrower));
  measured.add("compare with a narrower policy", size, compared);
  const sockets = Math.min(size, mostSockets());
  measured.add("open all sockets", sockets, await socketTime(policyWith(sockets, software), software, runs));
}

/** Small sizes are over sooner, and need more runs until one was left alone. */
const runsFor = (size: number) => Math.max(5, Math.ceil(1000 / size));

/** A socket has two descriptors: one is kept, to refuse with when there is none left. */
function mostSockets(): number {
  const limit = parseDescriptorLimit(readFileSync("/proc/self/limits", "latin1"));
  return Math.floor(((limit ?? Number.POSITIVE_INFINITY) - OTHER_DESCRIPTORS) / 2);
}

function withScopes(document: PolicyDocument, count: number): PolicyDocument {
  const scope = { ...LIMITS, key: "release-ec", mechanisms: MECHANISMS };
  return { ...document, scopes: Array.from({ length: count }, (_, index) => ({ ...scope, name: `scope-${index}` })) };
}

/** The scope of a parsed document so many times, then one that lets a key in, and one that this key is for. */
function policyWith(count: number, { publicKeys }: Software): Policy {
  const document = withScopes(policyDocument(), 1);
  const spki = publicKeys.get("release-ec")?.spki ?? new Uint8Array();
  Object.assign(document.keys, {
    "release-ec": { spki: `sha256:${sha256Hex(spki)}`, does: "sign" },
    wrapping: { spki: `sha256:${"44".repeat(32)}`, does: "unwrap" },
  });
  const arriving = {
    ...{ key: "arrives", publicKey: Buffer.from(spki).toString("base64"), does: "sign", where: "session" },
    ...{ label: "arrives", mechanisms: ["CKM_ECDSA"], blob: `sha256:${"55".repeat(32)}` },
  };
  const unwrapping = [{ type: "CKM_RSA_PKCS_OAEP", digest: "sha256" }];
  document.scopes.push(
    { ...LIMITS, name: "arrivals", key: "wrapping", unwraps: [arriving], mechanisms: unwrapping },
    { ...LIMITS, name: "arrived", from: "arrivals", key: "arrives", mechanisms: MECHANISMS },
  );
  const policy = parsePolicy(documentBytes(document));
  const [scope, ...others] = policy.scopes;
  if (scope === undefined) throw new Error("no scope");
  const many = Array.from({ length: count }, (_, index) => ({ ...scope, name: `scope-${index}` }));
  return { ...policy, scopes: [...many, ...others] };
}

/** Milliseconds until every scope listens, as `serveScopes` opens them, in memory as on a machine. Nobody connects. */
async function socketTime(policy: Policy, software: Software, runs: number): Promise<number> {
  const directory = mkdtempSync("/dev/shm/ironclaw-scopes-");
  const audit = openAudit({ directory: join(directory, "audit"), now: Date.now, anchor: null });
  const keys = new Map([...software.publicKeys].filter(([name]) => name === "release-ec"));
  const known = policy.scopes.filter(({ keys: [name] }) => name === "release-ec");
  const broker = openBroker({ ...policy, scopes: known }, keys, { token: software, audit });
  const common = { broker, native: native(), identify: () => Promise.reject(new Error("nobody connects")) };
  const open = () =>
    Promise.all(
      known.map(({ name }) => serveScope({ ...common, scope: name, socketPath: join(directory, `${name}.sock`) })),
    );
  try {
    return await ownTime(runs, open, (servers) => Promise.all(servers.map((server) => server.close())));
  } finally {
    audit.close();
    rmSync(directory, { recursive: true });
  }
}
