import { dirname } from "node:path";
import { afterEach, describe, expect, test } from "vitest";
import { KeyRing, LivePolicy } from "../../agent/broker/index.ts";
import { connect, type RefusedError, type Session } from "../../agent/client/index.ts";
import { type Policy, parsePolicy, sha256Hex, toBase64 } from "../../policy/index.ts";
import { type BrokerFixture, softwareKeys, startBroker } from "../support/broker-fixture.ts";
import { DIGEST } from "../support/native-client.ts";
import { documentBytes, type PolicyDocument, policyDocument } from "../support/policy-document.ts";

// What is taken away while the token works.
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
  document.scopes = [{ ...signing, mechanisms: [...ecdsa, { type: "CKM_SHA256_RSA_PKCS" }] }, ...own[operation]];
  return document;
}

const policyOf = (document: PolicyDocument): Policy => parsePolicy(documentBytes(document));

interface Taking {
  readonly what: string;
  readonly step: string;
  readonly take: (live: LivePolicy, operation: Operation) => void;
}

const narrowed =
  (change: (document: PolicyDocument, scope: string) => void): Taking["take"] =>
  (live, operation) => {
    const document = documentFor(operation);
    change(document, SCOPE[operation]);
    live.narrow(policyOf({ ...document, serial: 8 }));
  };

const TAKEN: readonly Taking[] = [
  {
    ...{ what: "the scope is frozen", step: "frozen" },
    take: (live, operation) => live.freeze({ all: false, scopes: new Set([SCOPE[operation]]) }),
  },
  {
    ...{ what: "its caller may run another program only", step: "caller" },
    take: narrowed((document) => {
      Object.assign(document.callers["release-signer"] ?? {}, { exe: [`sha256:${"6e".repeat(32)}`] });
    }),
  },
  {
    ...{ what: "the scope is no more", step: "caller" },
    take: narrowed((document, scope) => {
      document.scopes = document.scopes.filter(({ name }) => name !== scope);
    }),
  },
];
const KEY_GONE: Taking = {
  ...{ what: "the scope has the key no more", step: "key" },
  take: narrowed(({ scopes }) => {
    Object.assign(scopes[0] ?? {}, { keys: ["release-rsa"], mechanisms: [{ type: "CKM_SHA256_RSA_PKCS" }] });
  }),
};

let broker: BrokerFixture;
afterEach(() => broker.close());

/** A broker from which something is taken while its token does this operation; what the token gave. */
async function startTaking(operation: Operation, { take }: Taking) {
  const document = documentFor(operation);
  const policy = policyOf(document);
  const live = new LivePolicy(policy);
  const ring = new KeyRing(policy, keys.publicKeys);
  const given: Uint8Array[] = [];
  const result = async () => {
    const bytes = new Uint8Array(64).fill(0xa5);
    given.push(bytes);
    take(live, operation);
    return bytes;
  };
  broker = await startBroker({
    ...{ publicKeys: keys.publicKeys, parts: { live, keys: ring } },
    token: { sign: result, decrypt: result, unwrap: async () => void (await result()) },
    change: (own) => void Object.assign(own, document),
  });
  return { given, ring };
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

describe("what the token answers after something was taken away", () => {
  const rows = (["sign", "decrypt", "unwrap"] as const).flatMap((operation) =>
    [...TAKEN, ...(operation === "sign" ? [KEY_GONE] : [])].map((taking) => ({ operation, ...taking })),
  );

  test.each(rows)(
    "I6 I8: the result of $operation is withheld when $what meanwhile, and that is recorded",
    async ({ operation, ...taking }) => {
      const { given, ring } = await startTaking(operation, taking);
      expect(await refusalOf(operation)).toBe(taking.step === "frozen" ? "frozen" : "not-allowed");
      const reason = `${taking.step === "frozen" ? "frozen" : "narrowed"} meanwhile: the result was withheld`;
      expect(broker.records().map(({ decision, step, reason: why }) => [decision, step, why])).toEqual([
        ["allow", null, expect.any(String)],
        ["deny", taking.step, reason],
      ]);
      expect(given).toHaveLength(1);
      if (operation !== "unwrap") expect(given[0]).toEqual(new Uint8Array(64));
      expect(ring.arrival("intake", "restored")).toBeNull();
    },
  );
});
