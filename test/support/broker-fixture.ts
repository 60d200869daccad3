import { constants, generateKeyPairSync, type KeyObject, privateEncrypt } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type AuditLog, openAudit, readAudit } from "../../agent/audit.ts";
import type { AuditRecord } from "../../agent/audit-record.ts";
import {
  type PublicKeySource,
  type ScopeServer,
  type Signer,
  serveScope,
  type TokenMechanism,
} from "../../agent/broker/index.ts";
import type { Peer } from "../../agent/identity.ts";
import { parsePolicy, sha256Hex } from "../../policy/index.ts";
import { documentBytes, type PolicyDocument, policyDocument, SIGNER_EXE, SIGNER_UID } from "./policy-document.ts";

export const SIGNER_PEER: Peer = { pid: 77, uid: SIGNER_UID, gid: 2001, exe: SIGNER_EXE as Peer["exe"] };
export const INTRUDER_PEER: Peer = { ...SIGNER_PEER, pid: 78, uid: 2002 };

export interface SignRequest {
  readonly key: string;
  readonly mechanism: TokenMechanism;
  readonly data: Uint8Array;
}

export interface BrokerFixture {
  /** Socket of a scope of the sample policy. */
  socket(scope: string): string;
  /** Who the next connections come from; null: cannot be identified. */
  peer: Peer | null;
  /** Milliseconds of the rate limit's clock. */
  time: number;
  readonly requests: SignRequest[];
  records(): readonly AuditRecord[];
  close(): Promise<void>;
}

export interface BrokerFixtureOptions {
  readonly signer?: Signer;
  readonly publicKeys?: ReadonlyMap<string, PublicKeySource>;
  readonly audit?: AuditLog;
  readonly change?: (document: PolicyDocument) => void;
}

/** The keys of a token that is not there: RSA signs for real, EC gives 64 bytes. */
export function softwareKeys(): { publicKeys: Map<string, PublicKeySource>; sign: Signer["sign"] } {
  const ec = generateKeyPairSync("ec", { namedCurve: "P-256" });
  const rsa = generateKeyPairSync("rsa", { modulusLength: 2048 });
  const source = (key: KeyObject, id: number, label: string): PublicKeySource => ({
    spki: Uint8Array.from(key.export({ format: "der", type: "spki" })),
    id: Uint8Array.of(id),
    label,
  });
  return {
    publicKeys: new Map([
      ["release-ec", source(ec.publicKey, 1, "release-ec")],
      ["release-rsa", source(rsa.publicKey, 2, "release-rsa")],
    ]),
    sign: async ({ key, data }) =>
      key === "release-ec"
        ? new Uint8Array(64).fill(data[0] ?? 0)
        : Uint8Array.from(privateEncrypt({ key: rsa.privateKey, padding: constants.RSA_PKCS1_PADDING }, data)),
  };
}

/** Made once in a test file: an RSA key takes longer than most tests. */
let shared: ReturnType<typeof softwareKeys> | null = null;

/** Both scopes of the sample policy, on real sockets. */
export async function startBroker(options: BrokerFixtureOptions = {}): Promise<BrokerFixture> {
  const directory = mkdtempSync(join(tmpdir(), "broker-"));
  shared ??= softwareKeys();
  const software = shared;
  const publicKeys = options.publicKeys ?? software.publicKeys;
  const document = policyDocument();
  for (const [name, { spki }] of publicKeys) document.keys[name] = { spki: `sha256:${sha256Hex(spki)}`, does: "sign" };
  options.change?.(document);
  const policy = parsePolicy(documentBytes(document));
  const auditPath = join(directory, "audit.log");
  const audit = options.audit ?? openAudit({ path: auditPath, now: Date.now, anchor: null });
  const servers: ScopeServer[] = [];
  const fixture: BrokerFixture = {
    socket: (scope) => join(directory, `${scope}.sock`),
    peer: SIGNER_PEER,
    time: 1_000_000,
    requests: [],
    records: () => readAudit(auditPath, 1, 10_000),
    close: async () => {
      for (const server of servers) await server.close();
      audit.close();
      rmSync(directory, { recursive: true });
    },
  };
  const signer: Signer = {
    sign: (request) => {
      fixture.requests.push(request);
      return (options.signer?.sign ?? software.sign)(request);
    },
  };
  const identify = async (): Promise<Peer> => {
    if (fixture.peer === null) throw new Error("no such process");
    return fixture.peer;
  };
  for (const { name } of policy.scopes) {
    const socketPath = fixture.socket(name);
    servers.push(
      await serveScope({
        policy,
        scope: name,
        socketPath,
        signer,
        audit,
        identify,
        publicKeys,
        now: () => fixture.time,
      }),
    );
  }
  return fixture;
}
