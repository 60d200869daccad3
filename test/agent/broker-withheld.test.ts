import { dirname } from "node:path";
import { setImmediate as turn } from "node:timers/promises";
import { afterEach, describe, expect, test } from "vitest";
import type { AuditLog } from "../../agent/audit/log.ts";
import type { AuditEntry } from "../../agent/audit/record.ts";
import { type ApprovalGate, type Asked, KeyRing, LivePolicy } from "../../agent/broker/index.ts";
import { connect, type RefusedError, type Session } from "../../agent/client/index.ts";
import { AgentError } from "../../agent/errors.ts";
import { type Policy, parsePolicy, sha256Hex, toBase64 } from "../../policy/index.ts";
import { type BrokerFixture, softwareKeys, startBroker } from "../support/broker-fixture.ts";
import { DIGEST } from "../support/native-client.ts";
import { documentBytes, type PolicyDocument, policyDocument, sshKeyLine } from "../support/policy-document.ts";

// What is taken away while the record is written, and while the token works.
const keys = softwareKeys();
const BLOB = new Uint8Array(256).fill(1);
const OAEP = [{ type: "CKM_RSA_PKCS_OAEP", digest: "sha256" }];

type Operation = "sign" | "decrypt" | "unwrap";
const SCOPE: Readonly<Record<Operation, string>> = { sign: "signing", decrypt: "vault", unwrap: "intake" };

function spkiOf(name: string): Uint8Array {
  const source = keys.publicKeys.get(name);
  if (source === undefined) throw new TypeError(`no key ${name}`);
  return source.spki;
}

/** Two keys that sign; one that decrypts, or unwraps: a key does one thing. */
function documentFor(operation: Operation): PolicyDocument {
  const document = policyDocument();
  for (const name of ["release-ec", "release-rsa", "vault"]) {
    const does = name === "vault" ? (operation === "unwrap" ? "unwrap" : "decrypt") : "sign";
    document.keys[name] = { spki: `sha256:${sha256Hex(spkiOf(name))}`, does };
  }
  const common = { caller: "release-signer", audit: "written" };
  const rule = {
    ...{ key: "restored", publicKey: toBase64(spkiOf("release-ec")), does: "sign", where: "session", label: "x" },
    ...{ mechanisms: ["CKM_ECDSA"], blob: `sha256:${sha256Hex(BLOB)}` },
  };
  const ecdsa = [{ type: "CKM_ECDSA", digest: "sha256" }];
  const signing = { ...common, name: "signing", keys: ["release-rsa", "release-ec"], mechanisms: ecdsa };
  const own = {
    sign: [{ ...common, name: "kept", key: "release-ec", mechanisms: ecdsa }],
    decrypt: [{ ...common, name: "vault", key: "vault", mechanisms: OAEP }],
    unwrap: [{ ...common, name: "intake", key: "vault", mechanisms: OAEP, unwraps: [rule], audit: "durable" }],
  };
  const hashed = [{ type: "CKM_ECDSA_SHA256" }, { type: "CKM_SHA256_RSA_PKCS" }];
  document.scopes = [{ ...signing, mechanisms: [...ecdsa, ...hashed] }, ...own[operation]];
  return document;
}

const policyOf = (document: PolicyDocument): Policy => parsePolicy(documentBytes(document));

interface Taking {
  readonly what: string;
  /** Step of the record, and what the caller is told. */
  readonly step: string;
  readonly said: string;
  /** How the record's reason begins. */
  readonly why: string;
  readonly take: (live: LivePolicy, operation: Operation) => void;
}

const narrowed =
  (change: (document: PolicyDocument, scope: string) => void): Taking["take"] =>
  (live, operation) => {
    const document = documentFor(operation);
    change(document, SCOPE[operation]);
    live.narrow(policyOf({ ...document, serial: 8 }));
  };

/** A narrowing of the scope itself. */
const scopeNarrowed = (fields: Record<string, unknown>): Taking["take"] =>
  narrowed((document, scope) => {
    document["approvers"] = { alice: { key: sshKeyLine("A"), notFor: [] } };
    Object.assign(document.scopes.find(({ name }) => name === scope) ?? {}, fields);
  });
const NARROWED = { why: "narrowed", said: "not-allowed" } as const;

const TAKEN: readonly Taking[] = [
  {
    ...{ what: "the scope is frozen", step: "frozen", said: "frozen", why: "frozen" },
    take: (live, operation) => live.freeze({ all: false, scopes: new Set([SCOPE[operation]]) }),
  },
  {
    ...{ ...NARROWED, what: "its caller may run another program only", step: "caller" },
    take: narrowed((document) => {
      Object.assign(document.callers["release-signer"] ?? {}, { exe: [`sha256:${"6e".repeat(32)}`] });
    }),
  },
  {
    ...{ ...NARROWED, what: "the scope is no more", step: "caller" },
    take: narrowed((document, scope) => {
      document.scopes = document.scopes.filter(({ name }) => name !== scope);
    }),
  },
  {
    ...{ what: "the scope's time has ended", step: "valid", said: "outside-validity", why: "outside its time" },
    take: scopeNarrowed({ valid: { from: "2026-01-01T00:00:00Z", until: "2026-02-01T00:00:00Z" } }),
  },
  {
    ...{ ...NARROWED, what: "the scope asks for approvals", step: "approvals", said: "approval-needed" },
    take: scopeNarrowed({ approvals: { required: 1, of: ["alice"], for: "operation", window: "PT1H" } }),
  },
];
const OF_ONE: Readonly<Record<Operation, readonly Taking[]>> = {
  sign: [
    {
      ...{ ...NARROWED, what: "the scope has the key no more", step: "key" },
      take: narrowed(({ scopes }) => {
        Object.assign(scopes[0] ?? {}, { keys: ["release-rsa"], mechanisms: [{ type: "CKM_SHA256_RSA_PKCS" }] });
      }),
    },
    {
      ...{ ...NARROWED, what: "the scope has the mechanism no more", step: "mechanism" },
      take: scopeNarrowed({ mechanisms: [{ type: "CKM_ECDSA_SHA256" }, { type: "CKM_SHA256_RSA_PKCS" }] }),
    },
  ],
  decrypt: [],
  unwrap: [
    {
      ...{ ...NARROWED, what: "the scope lets this key in no more", step: "parameters", said: "malformed-input" },
      take: narrowed(({ scopes }, scope) => {
        const intake = scopes.find(({ name }) => name === scope) as { unwraps?: Record<string, unknown>[] } | undefined;
        Object.assign(intake?.unwraps?.[0] ?? {}, { key: "another" });
      }),
    },
  ],
};
const ROWS = (["sign", "decrypt", "unwrap"] as const).flatMap((operation) =>
  [...TAKEN, ...OF_ONE[operation]].map((taking) => ({ operation, ...taking })),
);

let broker: BrokerFixture;
afterEach(() => broker.close());

interface TakingBroker {
  /** What the token gave. */
  readonly given: readonly Uint8Array[];
  readonly ring: KeyRing;
  readonly letIn: readonly LetIn[];
}

/** Whether a key that was to come in still may. */
interface LetIn {
  readonly meanwhile: boolean;
  readonly later: () => boolean;
}

interface TakingMoments {
  /** When its record is written. */
  readonly recorded?: (live: LivePolicy) => void;
  /** While a shim is replaced. */
  readonly waiting?: (live: LivePolicy) => void;
  /** While the token works. */
  readonly working?: (live: LivePolicy) => void;
  readonly entries?: AuditEntry[];
  /** Of the policy from the start. */
  readonly document?: PolicyDocument;
  readonly approvals?: ApprovalGate;
}

/** A log in memory; what happens when the record of something allowed is written, and nobody was told yet. */
function memoryLog(entries: AuditEntry[], recorded: () => void): AuditLog {
  const head = () => ({ seq: entries.length, hash: "0".repeat(64) });
  return {
    append: async (entry) => {
      entries.push(entry);
      const own = head();
      await turn();
      if (entry.decision === "allow") recorded();
      return own;
    },
    ...{ head, durableHead: head, latest: () => 0, close: () => {} },
  };
}

/** A broker from which something is taken at that moment of an operation. */
async function startTaking(operation: Operation, moments: TakingMoments): Promise<TakingBroker> {
  const { recorded, waiting, working, entries, document = documentFor(operation), approvals } = moments;
  const policy = policyOf(document);
  const live = new LivePolicy(policy);
  const ring = new KeyRing(policy, keys.publicKeys);
  const given: Uint8Array[] = [];
  const letIn: LetIn[] = [];
  const result = async () => {
    const bytes = new Uint8Array(64).fill(0xa5);
    given.push(bytes);
    working?.(live);
    return bytes;
  };
  const asked = async (_: unknown, question: Asked) => {
    await turn();
    waiting?.(live);
    if (!question.stillAllowed()) throw new AgentError("ERR_WITHHELD", "request");
    return result();
  };
  broker = await startBroker({
    ...{ publicKeys: keys.publicKeys, parts: { live, keys: ring, ...(approvals && { approvals }) } },
    token: {
      ...{ sign: asked, decrypt: asked },
      unwrap: async ({ stillAllowed }) => {
        await asked(null, { stillAllowed });
        letIn.push({ meanwhile: stillAllowed(), later: stillAllowed });
      },
    },
    ...(entries !== undefined && { audit: memoryLog(entries, () => recorded?.(live)) }),
    change: (own) => void Object.assign(own, document),
  });
  return { given, ring, letIn };
}

async function refusalOf(operation: Operation): Promise<string> {
  const asked: Readonly<Record<Operation, (session: Session) => Promise<unknown>>> = {
    sign: (session) => session.sign({ key: "release-ec", mechanism: "CKM_ECDSA", digest: DIGEST }),
    decrypt: (session) => session.decrypt({ key: "vault", mechanism: "CKM_RSA_PKCS_OAEP", ciphertext: BLOB }),
    unwrap: (session) => session.unwrap({ mechanism: "CKM_RSA_PKCS_OAEP", arriving: "restored", blob: BLOB }),
  };
  const scope = SCOPE[operation];
  await using client = await connect({ scope, directory: dirname(broker.socket(scope)) });
  await using session = client.session();
  return await asked[operation](session).then(
    () => "done",
    ({ reason }: RefusedError) => reason,
  );
}

describe("what is taken away", () => {
  test.each(ROWS)(
    "I6 I8: while the token works: the result of $operation is withheld when $what, and the record says of which one",
    async ({ operation, step, said, why, take }) => {
      const { given, ring, letIn } = await startTaking(operation, { working: (live) => take(live, operation) });
      expect(await refusalOf(operation)).toBe(said);
      const [allowed, withheld, ...others] = broker.records();
      expect(others).toEqual([]);
      expect(allowed).toMatchObject({ seq: 1, decision: "allow", step: null });
      expect(withheld).toMatchObject({
        ...{ decision: "deny", step, reason: `${why} meanwhile: the result of record 1 was withheld` },
        ...{ inputDigest: allowed?.inputDigest, key: allowed?.key, operation },
      });
      expect(given).toHaveLength(1);
      if (operation !== "unwrap") expect(given[0]).toEqual(new Uint8Array(64));
      else expect(letIn[0]?.meanwhile).toBe(false);
      expect(ring.arrival("intake", "restored")).toBeNull();
    },
  );

  test.each(ROWS)(
    "I6 I8: while the record is written: the token is not asked to $operation when $what, and the log says so",
    async ({ operation, step, said, why, take }) => {
      const entries: AuditEntry[] = [];
      const recorded = (live: LivePolicy): void => take(live, operation);
      const { given } = await startTaking(operation, { entries, recorded });
      expect(await refusalOf(operation)).toBe(said);
      expect(given).toEqual([]);
      expect(entries.map(({ decision, step: at, reason }) => [decision, at, reason])).toEqual([
        ["allow", null, expect.any(String)],
        ["deny", step, `${why} meanwhile: record 1 was withheld from the token`],
      ]);
      expect(entries[1]?.inputDigest).toBe(entries[0]?.inputDigest);
    },
  );

  test.each(["sign", "decrypt", "unwrap"] as const)(
    "I6 I8: while a shim is waited for: the token is not asked to %s, the log says so once, and nothing else is spent for it",
    async (operation) => {
      const { given } = await startTaking(operation, { waiting: (live) => TAKEN[0]?.take(live, operation) });
      expect(await refusalOf(operation)).toBe("frozen");
      expect(given).toEqual([]);
      expect(broker.records().map(({ decision, step, reason }) => [decision, step, reason])).toEqual([
        ["allow", null, expect.any(String)],
        ["deny", "frozen", "frozen meanwhile: record 1 was withheld from the token"],
      ]);
    },
  );

  test("I6 I8: a scope whose time ends by the clock while the token works releases nothing either", async () => {
    await startTaking("sign", {
      working: () => {
        broker.wallTime = Date.parse("2026-11-26T13:00:00Z");
      },
    });
    const valid = { from: "2026-11-26T11:00:00Z", until: "2026-11-26T13:00:00Z" };
    scopeNarrowed({ valid })(broker.broker.live, "sign");
    expect(await refusalOf("sign")).toBe("outside-validity");
  });

  test("I6: a key that is in is let in again by a takeover when its caller is narrowed away, and not when the scope is frozen", async () => {
    const { letIn, ring } = await startTaking("unwrap", {});
    expect(await refusalOf("unwrap")).toBe("done");
    expect(ring.arrival("intake", "restored")).not.toBeNull();
    TAKEN[1]?.take(broker.broker.live, "unwrap");
    expect(letIn.map(({ meanwhile, later }) => [meanwhile, later()])).toEqual([[true, true]]);
    TAKEN[0]?.take(broker.broker.live, "unwrap");
    expect(letIn[0]?.later()).toBe(false);
  });

  test.each([
    { what: "an operation of two approvers that both of them approved", of: ["alice", "bob"], said: "done" },
    { what: "one whose approver is none of them any more", of: ["bob", "carol"], said: "approval-needed" },
  ])("I6: approvals that were given count as long as their approvers do: $what", async ({ of, said }) => {
    const approved = (approvers: readonly string[]): PolicyDocument => {
      const document = documentFor("sign");
      const names = ["alice", "bob", "carol"].map((name, index) => [
        name,
        { key: sshKeyLine("AFG"[index] ?? "H"), notFor: [] },
      ]);
      document["approvers"] = Object.fromEntries(names);
      const approvals = { required: 2, of: approvers, for: "operation", window: "PT1H" };
      Object.assign(document.scopes[0] ?? {}, { approvals });
      return document;
    };
    await startTaking("sign", {
      document: approved(["alice", "bob", "carol"]),
      approvals: { approvedBy: () => ({ id: "r1", approvers: ["alice", "bob"] }), use: () => true },
      working: (live) => live.narrow(policyOf({ ...approved(of), serial: 8 })),
    });
    expect(await refusalOf("sign")).toBe(said);
  });

  test("I6 I8: while a key comes in: what the token has against it is the same to the caller, and recorded as withheld", async () => {
    const { ring } = await startTaking("unwrap", {
      working: (live) => {
        TAKEN[0]?.take(live, "unwrap");
        throw new AgentError("ERR_KEY_GONE", "key");
      },
    });
    expect(await refusalOf("unwrap")).toBe("frozen");
    expect(broker.records().map(({ decision, step }) => step ?? decision)).toEqual(["allow", "frozen"]);
    expect(ring.arrival("intake", "restored")).toBeNull();
  });

  test("I8: a hundred signatures at the token when the scope is frozen: each has a record of its own that says so, and names the one that had allowed it", async () => {
    const COUNT = 100;
    let release = (): void => {};
    const frozen = new Promise<void>((resolve) => {
      release = resolve;
    });
    let asked = 0;
    broker = await startBroker({
      token: {
        sign: async () => {
          asked += 1;
          await frozen;
          return new Uint8Array(64);
        },
      },
      change: ({ scopes }) => delete scopes[0]?.["rate"],
    });
    const scope = "release-signing";
    const clients = await Promise.all([0, 1].map(() => connect({ scope, directory: dirname(broker.socket(scope)) })));
    const said = Promise.all(
      Array.from({ length: COUNT }, async (_, index) => {
        const session = clients[index % 2]?.session();
        const digest = new Uint8Array(32).fill(index);
        return session?.sign({ key: "release-ec", mechanism: "CKM_ECDSA", digest }).catch(({ reason }) => reason);
      }),
    );
    await expect.poll(() => asked).toBe(COUNT);
    broker.broker.live.freeze({ all: true, scopes: new Set() });
    release();
    expect(await said).toEqual(Array(COUNT).fill("frozen"));
    for (const client of clients) await client.close();
    const records = broker.records();
    const allowed = records.filter(({ decision }) => decision === "allow");
    expect(allowed).toHaveLength(COUNT);
    const withheld = new Map(records.map(({ reason, inputDigest }) => [reason, inputDigest]));
    for (const { seq, inputDigest } of allowed)
      expect(withheld.get(`frozen meanwhile: the result of record ${seq} was withheld`)).toBe(inputDigest);
    expect(records).toHaveLength(2 * COUNT);
  });
});
