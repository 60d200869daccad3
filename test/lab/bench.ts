import { appendFileSync, chmodSync, copyFileSync, mkdirSync, mkdtempSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { openAudit } from "../../agent/audit/open.ts";
import type { AuditRecord } from "../../agent/audit/record.ts";
import { readAudit } from "../../agent/audit/verify.ts";
import type { Broker, PublicKeySource, Token } from "../../agent/broker/index.ts";
import { domainToken } from "../../agent/scopes/all-scopes.ts";
import { type ScopeServer, serveScope } from "../../agent/scopes/index.ts";
import type { ShimKey } from "../../agent/shim-replies.ts";
import { parsePolicy, sha256Hex } from "../../policy/index.ts";
import { openBroker } from "../support/broker-fixture.ts";
import { openDomainBench } from "../support/domain-fixture.ts";
import { documentBytes, type PolicyDocument } from "../support/policy-document.ts";
import {
  keyNamed,
  makeToken,
  native,
  publicKeyOf,
  runTokenTool,
  SOFTHSM,
  TEST_PIN,
  writeHostProfile,
} from "../support/shim-fixture.ts";
import { isRoot, realIdentity, WORKLOAD_UID } from "../support/socket-workload.ts";

export const STOCK_TOOL = "/usr/bin/pkcs11-tool";
const KEYS = ["ec", "rsa", "kek"] as const;
export type LabKey = (typeof KEYS)[number];

/** CKA_ID of each, as pkcs11-tool wants it. */
export const ID: Readonly<Record<LabKey, string>> = { ec: "01", rsa: "02", kek: "03" };

/** An executable file, and what a policy knows it by. */
export interface Program {
  readonly path: string;
  readonly exe: `sha256:${string}`;
}

/** Scopes of one policy on real sockets. */
export interface Served extends AsyncDisposable {
  readonly broker: Broker;
  readonly document: PolicyDocument;
  socket(scope: string): string;
}

/** A SoftHSM token in a sandboxed shim, a broker in front of it, and one audit log for all that is asked. */
export interface Lab {
  /** Everybody may read and pass here; nobody but the lab may write. */
  readonly directory: string;
  /** `ec` (P-256) and `rsa` (2048) sign, `kek` (RSA 2048) unwraps. */
  readonly keys: ReadonlyMap<LabKey, PublicKeySource>;
  /** Where the token's library lies, as the shim gets it. */
  readonly token: { readonly environment: Readonly<Record<string, string>>; readonly pin: string };
  /** What attackers find on every machine. */
  readonly stock: Program;
  /** The applications that the hardened policies are for: the stock tool's code, with digests of their own. */
  readonly signer: Program;
  readonly nightly: Program;
  /** Uid of the applications, and of another account; the same when this process may not become others. */
  readonly uids: { readonly service: number; readonly other: number };
  /** What the shim says of the keys on the token. */
  held(): Promise<readonly ShimKey[]>;
  readonly auditPath: string;
  readonly audit: Broker["audit"];
  /** Number of the last record. */
  lastRecord(): number;
  records(after: number): readonly AuditRecord[];
  /** Serves this policy until it is disposed of. @param parts of the broker that are others than usual */
  serve(document: PolicyDocument, parts?: (broker: Broker, bytes: Uint8Array) => Partial<Broker>): Promise<Served>;
  close(): Promise<void>;
}

/** Takes about two seconds: a token, its shim and a software TPM. */
export async function openLab(): Promise<Lab> {
  const bench = await openDomainBench();
  const { directory } = bench.bench;
  const token = makeToken(bench.bench);
  runTokenTool(token, ["--keypairgen", "--key-type", "rsa:2048", "--id", "03", "--label", "kek"]);
  const profile = writeHostProfile(bench.bench, token);
  const opened = await bench.open({
    ...{ library: SOFTHSM, environment: token.environment, profile, pin: TEST_PIN, label: "bench" },
    ...{ uses: { kek: "unwrap" }, accepts: { rsa: ["raw-rsa"] } },
  });
  const held = () => opened.domain.use("ec", (shim, { slotId }) => shim.keys(slotId));
  const found = await held();
  const keys = new Map(KEYS.map((name) => [name, sourceOf(found, name)] as const));
  const auditPath = join(directory, "lab-audit");
  const audit = openAudit({ directory: auditPath, now: Date.now, anchor: null });
  const records = (after: number) => readAudit(auditPath, after + 1, 10_000);
  const domain = domainToken(opened.domain);
  return {
    ...{ directory, keys, held, auditPath, audit, records, token: { environment: token.environment, pin: TEST_PIN } },
    stock: programAt(STOCK_TOOL),
    signer: copyOf(directory, "release-signer"),
    nightly: copyOf(directory, "nightly-builder"),
    uids: { service: WORKLOAD_UID, other: isRoot ? WORKLOAD_UID + 1 : WORKLOAD_UID },
    lastRecord: () => audit.head().seq,
    serve: (document, parts = () => ({})) => serveAll({ directory, keys, token: domain, audit, document, parts }),
    close: async () => {
      audit.close();
      opened.domain.close();
      await bench.close();
    },
  };
}

interface Serving {
  readonly directory: string;
  readonly keys: Lab["keys"];
  readonly token: Token;
  readonly audit: Broker["audit"];
  readonly document: PolicyDocument;
  readonly parts: (broker: Broker, bytes: Uint8Array) => Partial<Broker>;
}

async function serveAll({ directory, keys, token, audit, document, parts }: Serving): Promise<Served> {
  const bytes = documentBytes(document);
  const policy = parsePolicy(bytes);
  const sources = new Map([...keys].filter(([name]) => Object.hasOwn(policy.keys, name)));
  const usual = openBroker(policy, sources, { token, audit, now: () => performance.now() });
  const broker = { ...usual, ...parts(usual, bytes) };
  const scopes = mkdtempSync(join(directory, "scopes-"));
  chmodSync(scopes, 0o755);
  const socket = (scope: string) => join(scopes, `${scope}.sock`);
  const servers: ScopeServer[] = [];
  for (const { name } of policy.scopes) {
    const own = { broker, scope: name, socketPath: socket(name), native: native(), identify: realIdentity() };
    servers.push(await serveScope(own));
  }
  return {
    ...{ broker, document, socket },
    [Symbol.asyncDispose]: async () => {
      for (const server of servers) await server.close();
    },
  };
}

function sourceOf(held: readonly ShimKey[], name: LabKey): PublicKeySource {
  const key = keyNamed(held, name);
  const spki = Uint8Array.from(publicKeyOf(key).export({ format: "der", type: "spki" }));
  return { spki, id: Uint8Array.of(KEYS.indexOf(name) + 1), label: name };
}

function copyOf(directory: string, name: string): Program {
  const programs = join(directory, "bin");
  mkdirSync(programs, { recursive: true });
  const path = join(programs, name);
  copyFileSync(STOCK_TOOL, path);
  appendFileSync(path, name); // behind the last section: the loader does not look there, the digest does
  chmodSync(path, 0o755);
  return programAt(path);
}

export function programAt(path: string): Program {
  return { path, exe: `sha256:${sha256Hex(readFileSync(path))}` };
}
