import { createPublicKey, generateKeyPairSync, type KeyObject, verify } from "node:crypto";
import { domainToken } from "../../agent/scopes/all-scopes.ts";
import { sha256, sha256Hex, toBase64, utf8 } from "../../policy/index.ts";
import { type BrokerFixture, startBroker } from "./broker-fixture.ts";
import { type DomainBench, type DomainOptions, openDomainBench, type TestDomain } from "./domain-fixture.ts";
import { keyNamed, makeToken, publicKeyOf, SOFTHSM, TEST_PIN, writeHostProfile } from "./shim-fixture.ts";
import { encryptOaep } from "./wrapping.ts";

export const MESSAGE: Uint8Array = utf8("a message to sign");
export const DIGEST: Uint8Array = sha256(MESSAGE);

/** A token in a real shim whose key `rsa` unwraps, and a broker on it: scope `restore` lets the signer in, `restored` uses it. */
export interface UnwrapBench {
  readonly domains: DomainBench;
  readonly opened: TestDomain;
  readonly broker: BrokerFixture;
  readonly kek: KeyObject;
  /** The EC key that is wrapped. */
  readonly signer: { readonly publicKey: KeyObject; readonly privateKey: KeyObject };
  /** The blob that the policy names. */
  wrapped: Uint8Array;
  /** Another key than the policy's, wrapped as well as the right one. */
  foreign(): Uint8Array;
  /** Over MESSAGE, as PKCS #11 has it. */
  isSigners(signature: Uint8Array): boolean;
  /** @param rule fields of the arrival's rule that are others than usual */
  start(rule?: Record<string, unknown>): Promise<void>;
}

export interface UnwrapLab {
  /** @param options default: one that serves, and one spare */
  open(options?: DomainOptions): Promise<UnwrapBench>;
  /** Ends what the last `open` and its `start` began. */
  end(): Promise<void>;
  close(): Promise<void>;
}

const spkiOf = (key: KeyObject) => Uint8Array.from(key.export({ format: "der", type: "spki" }));
const pkcs8Of = (key: KeyObject) => Uint8Array.from(key.export({ format: "der", type: "pkcs8" }));

/** What the benches of one test file share: a token in files, and a software TPM. */
export async function openUnwrapLab(): Promise<UnwrapLab> {
  const domains = await openDomainBench();
  const token = makeToken(domains.bench);
  const profile = writeHostProfile(domains.bench, token);
  let last: { opened: TestDomain; broker: BrokerFixture | null } | null = null;
  const open = async (options: DomainOptions = { spares: 1 }): Promise<UnwrapBench> => {
    const own = { library: SOFTHSM, environment: token.environment, profile, pin: TEST_PIN, label: "bench" };
    const opened = await domains.open({ ...own, uses: { rsa: "unwrap" } }, options);
    const kept: NonNullable<typeof last> = { opened, broker: null };
    last = kept;
    const kek = publicKeyOf(keyNamed(await opened.domain.use("rsa", (shim, { slotId }) => shim.keys(slotId)), "rsa"));
    const pair = () => generateKeyPairSync("ec", { namedCurve: "P-256" });
    const signer = pair();
    const key = createPublicKey(signer.publicKey.export({ format: "pem", type: "spki" }));
    const bench = {
      ...{ domains, opened, kek, signer, wrapped: encryptOaep(kek, pkcs8Of(signer.privateKey)) },
      foreign: () => encryptOaep(kek, pkcs8Of(pair().privateKey)),
      isSigners: (signature: Uint8Array) => verify("sha256", MESSAGE, { key, dsaEncoding: "ieee-p1363" }, signature),
      get broker(): BrokerFixture {
        if (kept.broker === null) throw new TypeError("unwrap bench: not started");
        return kept.broker;
      },
      start: async (rule: Record<string, unknown> = {}) => {
        kept.broker = await startUnwrapping(bench, rule);
      },
    };
    return bench;
  };
  const end = async () => {
    await last?.broker?.close();
    last?.opened.domain.close();
    for (const child of last?.opened.processes ?? []) child.kill("SIGKILL");
    last = null;
  };
  return { open, end, close: () => domains.close() };
}

type Parts = Pick<UnwrapBench, "opened" | "kek" | "signer" | "wrapped">;

function startUnwrapping(
  { opened, kek, signer, wrapped }: Parts,
  rule: Record<string, unknown>,
): Promise<BrokerFixture> {
  const blob = sha256Hex(wrapped);
  const arrival = {
    ...{ key: "restored", publicKey: toBase64(spkiOf(signer.publicKey)), does: "sign", where: "session" },
    ...{ label: `restored ${blob.slice(0, 8)}`, mechanisms: ["CKM_ECDSA"], blob: `sha256:${blob}` },
    ...rule,
  };
  const scope = { caller: "release-signer", audit: "written" };
  const oaep = [{ type: "CKM_RSA_PKCS_OAEP", digest: "sha1" }];
  const ecdsa = [{ type: "CKM_ECDSA", digest: "sha256" }];
  return startBroker({
    token: domainToken(opened.domain),
    publicKeys: new Map([["rsa", { spki: spkiOf(kek), id: Uint8Array.of(2), label: "rsa" }]]),
    change: (document) => {
      document.keys = { rsa: { spki: `sha256:${sha256Hex(spkiOf(kek))}`, does: "unwrap" } };
      document.scopes = [
        { ...scope, name: "restore", key: "rsa", mechanisms: oaep, unwraps: [arrival], audit: "durable" },
        { ...scope, name: "restored", from: "restore", key: "restored", mechanisms: ecdsa },
      ];
    },
  });
}
