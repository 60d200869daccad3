import { constants, generateKeyPairSync, type KeyObject, privateDecrypt, privateEncrypt } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { AuditLog } from "../../agent/audit/log.ts";
import { openAudit } from "../../agent/audit/open.ts";
import type { AuditRecord } from "../../agent/audit/record.ts";
import { readAudit } from "../../agent/audit/verify.ts";
import {
  type Broker,
  type DecryptMechanism,
  FailureBudgets,
  KeyRing,
  LivePolicy,
  NO_APPROVALS,
  NO_METER,
  type PublicKeySource,
  type SignMechanism,
  type Token,
  Usage,
} from "../../agent/broker/index.ts";
import { AgentError } from "../../agent/errors.ts";
import type { Peer, PeerIdentity } from "../../agent/identity.ts";
import type { Native, NativeStream } from "../../agent/native/index.ts";
import { openP11kitDoor } from "../../agent/p11kit/connection.ts";
import { openRpcDoor } from "../../agent/rpc/index.ts";
import { Connections, type Doors, type OpenDoor, type ScopeServer, serveScope } from "../../agent/scopes/index.ts";
import type { OpenConnections } from "../../agent/scopes/open-connections.ts";
import { OAEP_DIGESTS, type Policy, parsePolicy, sha256Hex } from "../../policy/index.ts";
import { documentBytes, type PolicyDocument, policyDocument, SIGNER_EXE, SIGNER_UID } from "./policy-document.ts";
import { native } from "./shim-fixture.ts";

export const SIGNER_PEER: Peer = { pid: 77, uid: SIGNER_UID, gid: 2001, exe: SIGNER_EXE as Peer["exe"], unit: null };
export const INTRUDER_PEER: Peer = { ...SIGNER_PEER, pid: 78, uid: 2002 };

export interface SignRequest {
  readonly key: string;
  readonly mechanism: SignMechanism;
  readonly data: Uint8Array;
}

export interface DecryptRequest {
  readonly key: string;
  readonly mechanism: DecryptMechanism;
  readonly data: Uint8Array;
}

export interface BrokerFixture {
  /** Socket of a scope of the sample policy. */
  socket(scope: string): string;
  /** Who the next connections come from; null: cannot be identified. */
  peer: Peer | null;
  /** Milliseconds of the clock of rates and durations. */
  time: number;
  /** Milliseconds since 1970. */
  wallTime: number;
  readonly requests: SignRequest[];
  readonly decryptions: DecryptRequest[];
  records(): readonly AuditRecord[];
  /** What its scopes share, and who is connected to them. */
  readonly broker: Broker;
  readonly connections: Connections;
  close(): Promise<void>;
}

export interface BrokerFixtureOptions {
  readonly token?: Partial<Token>;
  readonly publicKeys?: ReadonlyMap<string, PublicKeySource>;
  readonly audit?: AuditLog;
  readonly change?: (document: PolicyDocument) => void;
  /** Connections of the process; default: its own. */
  readonly open?: OpenConnections;
  readonly strangerMs?: number;
  /** Default: every connection is `peer`'s. */
  readonly identify?: PeerIdentity;
  readonly doors?: Doors<OpenDoor>;
  /** Around each connection that is accepted; default: it is what it is. */
  readonly accepted?: (stream: NativeStream) => NativeStream;
  /** Parts of the broker that are others than usual. */
  readonly parts?: Partial<Broker>;
}

/** What is added to the sample policy: one key, three scopes. */
export function decryptionScopes(document: PolicyDocument): void {
  const scope = { caller: "release-signer", key: "vault", failures: { perHour: 60, burst: 16 }, audit: "written" };
  document.scopes.push(
    { ...scope, name: "vault", mechanisms: [{ type: "CKM_RSA_PKCS_OAEP", digest: "sha256" }] },
    { ...scope, name: "legacy", mechanisms: [{ type: "CKM_RSA_PKCS", accepts: ["padding-oracle"] }] },
    { ...scope, name: "raw", mechanisms: [{ type: "CKM_RSA_X_509", accepts: ["raw-rsa"] }] },
  );
}

/** A token that never has to be waited for. */
interface SoftwareKeys extends Pick<Token, "reserve" | "unwrap"> {
  readonly publicKeys: Map<string, PublicKeySource>;
  sign(request: SignRequest): Promise<Uint8Array>;
  decrypt(request: DecryptRequest): Promise<Uint8Array>;
}

/** The keys of a token that is not there: RSA signs and decrypts for real, EC gives 64 bytes. */
export function softwareKeys(): SoftwareKeys {
  const ec = generateKeyPairSync("ec", { namedCurve: "P-256" });
  const rsa = generateKeyPairSync("rsa", { modulusLength: 2048 });
  const vault = generateKeyPairSync("rsa", { modulusLength: 2048 });
  const source = (key: KeyObject, id: number, label: string): PublicKeySource => ({
    spki: Uint8Array.from(key.export({ format: "der", type: "spki" })),
    id: Uint8Array.of(id),
    label,
  });
  return {
    publicKeys: new Map([
      ["release-ec", source(ec.publicKey, 1, "release-ec")],
      ["release-rsa", source(rsa.publicKey, 2, "release-rsa")],
      ["vault", source(vault.publicKey, 3, "vault")],
    ]),
    reserve: () => ({ [Symbol.dispose]: () => undefined }),
    sign: async ({ key, data, mechanism }) => {
      if (key === "release-ec") return new Uint8Array(64).fill(data[0] ?? 0);
      const padding = mechanism.type === "CKM_RSA_X_509" ? constants.RSA_NO_PADDING : constants.RSA_PKCS1_PADDING;
      return Uint8Array.from(privateEncrypt({ key: rsa.privateKey, padding }, data));
    },
    decrypt: async ({ mechanism, data }) => softwareDecrypt(vault.privateKey, mechanism, data),
    unwrap: async () => {
      throw tokenRefuses(0x54n);
    },
  };
}

/** A token that tells as much as tokens do: each way to fail has a code of its own. */
function softwareDecrypt(key: KeyObject, { type, oaep }: DecryptMechanism, data: Uint8Array): Uint8Array {
  const block = Uint8Array.from(privateDecrypt({ key, padding: constants.RSA_NO_PADDING }, data));
  if (type === "CKM_RSA_X_509") return block;
  if (type === "CKM_RSA_PKCS") {
    const end = block.indexOf(0, 2);
    if (block[0] !== 0) throw tokenRefuses(0x5n);
    if (block[1] !== 2) throw tokenRefuses(0x40n);
    if (end < 10) throw tokenRefuses(0x21n);
    return block.slice(end + 1);
  }
  if (block[0] !== 0) throw tokenRefuses(0x41n);
  const oaepHash = Object.entries(OAEP_DIGESTS).find(([, row]) => row.mechanism === oaep?.hash)?.[0] ?? "none";
  const options = { padding: constants.RSA_PKCS1_OAEP_PADDING, oaepHash, oaepLabel: oaep?.label ?? new Uint8Array() };
  try {
    return Uint8Array.from(privateDecrypt({ key, ...options }, data));
  } catch {
    throw tokenRefuses(0x40n);
  }
}

/** As the shim reports what the library answered. */
export function tokenRefuses(rv: bigint): AgentError {
  return new AgentError("ERR_SHIM_REFUSED", "shim decrypt rv", { expected: "0x0", got: `0x${rv.toString(16)}`, rv });
}

/** A broker over these keys and this policy, with clocks that run and nothing that needs approvals. */
export function openBroker(
  policy: Policy,
  publicKeys: ReadonlyMap<string, PublicKeySource>,
  { token, audit, now = Date.now }: Pick<Broker, "token" | "audit"> & { now?: () => number },
): Broker {
  return {
    ...{ live: new LivePolicy(policy), keys: new KeyRing(policy, publicKeys), token, audit },
    ...{ failures: new FailureBudgets(now), usage: new Usage(now), now, wallClock: Date.now },
    ...{ approvals: NO_APPROVALS, meter: NO_METER },
  };
}

/** The add-on, whose connections are others. */
function accepting(accepted: (stream: NativeStream) => NativeStream): Native {
  const addon = native();
  return {
    ...addon,
    accept: (fd, onConnection) => addon.accept(fd, (stream, connector) => onConnection(accepted(stream), connector)),
  };
}

/** Made once in a test file: an RSA key takes longer than most tests. */
let shared: ReturnType<typeof softwareKeys> | null = null;

/** The two scopes of the sample policy and the three that decrypt, on real sockets. */
export async function startBroker(options: BrokerFixtureOptions = {}): Promise<BrokerFixture> {
  const directory = mkdtempSync(join(tmpdir(), "broker-"));
  shared ??= softwareKeys();
  const software = shared;
  const publicKeys = options.publicKeys ?? software.publicKeys;
  const document = policyDocument();
  for (const [name, { spki }] of publicKeys) {
    document.keys[name] = { spki: `sha256:${sha256Hex(spki)}`, does: name === "vault" ? "decrypt" : "sign" };
  }
  if (publicKeys.has("vault")) decryptionScopes(document);
  options.change?.(document);
  const policy = parsePolicy(documentBytes(document));
  const auditPath = join(directory, "audit.log");
  const audit = options.audit ?? openAudit({ directory: auditPath, now: Date.now, anchor: null });
  const servers: ScopeServer[] = [];
  const connections = new Connections(() => fixture.time);
  const fixture: Omit<BrokerFixture, "broker"> = {
    connections,
    socket: (scope) => join(directory, `${scope}.sock`),
    peer: SIGNER_PEER,
    time: 1_000_000,
    wallTime: Date.parse("2026-11-26T12:00:00Z"),
    requests: [],
    decryptions: [],
    records: () => readAudit(auditPath, 1, 10_000),
    close: async () => {
      for (const server of servers) await server.close();
      audit.close();
      rmSync(directory, { recursive: true });
    },
  };
  const token: Token = {
    reserve: (key) => (options.token?.reserve ?? software.reserve)(key),
    sign: (request, asked) => {
      fixture.requests.push(request);
      return (options.token?.sign ?? software.sign)(request, asked);
    },
    decrypt: (request, asked) => {
      fixture.decryptions.push(request);
      return (options.token?.decrypt ?? software.decrypt)(request, asked);
    },
    unwrap: (request) => (options.token?.unwrap ?? software.unwrap)(request),
  };
  const now = () => fixture.time;
  const broker = {
    ...openBroker(policy, publicKeys, { token, audit, now }),
    wallClock: () => fixture.wallTime,
    ...options.parts,
  };
  const identify = async (): Promise<Peer> => {
    if (fixture.peer === null) throw new Error("no such process");
    return fixture.peer;
  };
  for (const { name } of policy.scopes) {
    const socketPath = fixture.socket(name);
    const { doors = { p11kit: openP11kitDoor, rpc: openRpcDoor } } = options;
    const who = options.identify ?? identify;
    const { open, strangerMs } = options;
    const limits = { ...(open && { open }), ...(strangerMs !== undefined && { strangerMs }) };
    servers.push(
      await serveScope({
        ...{ broker, connections, scope: name, socketPath, identify: who, doors },
        native: options.accepted === undefined ? native() : accepting(options.accepted),
        ...limits,
      }),
    );
  }
  return Object.assign(fixture, { broker });
}
