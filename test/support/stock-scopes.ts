import { createHash, createPublicKey, type KeyObject, verify } from "node:crypto";
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { DIGESTS } from "../../policy/index.ts";
import { type BrokerFixture, type BrokerFixtureOptions, startBroker } from "./broker-fixture.ts";
import { createSoftHsmToken, type SoftHsmToken } from "./softhsm.ts";

const MESSAGE = new TextEncoder().encode("release 1.2.3\n");

/** The scopes of the sample policy and one more over a SoftHSM token, for stock clients, with files for their command lines. */
export interface StockScopes {
  readonly directory: string;
  readonly broker: BrokerFixture;
  readonly token: SoftHsmToken;
  readonly message: Uint8Array;
  /** A file here: `message`, `digest` and `digest-info` have those contents, a key's name and `.pem` its public key. */
  file(name: string): string;
  /** The environment of a client of that scope. */
  environment(scope: string): Record<string, string>;
  publicKey(name: string): KeyObject;
  /** Does the signature fit the message? */
  verifies(name: string, signature: Uint8Array, extra?: object): boolean;
  close(): Promise<void>;
}

export interface StockScopesOptions extends BrokerFixtureOptions {
  /** The policy's `certificates`; default: none. */
  readonly certificatesOf?: (keys: SoftHsmToken["publicKeys"]) => Record<string, string>;
}

export async function startStockScopes(options: StockScopesOptions = {}): Promise<StockScopes> {
  const directory = mkdtempSync(join(tmpdir(), "stock-"));
  const token = await createSoftHsmToken({ directory, pin: "1234-test-pin", label: "signing" });
  const broker = await startBroker({
    ...{ token: token.token, publicKeys: token.publicKeys },
    ...options,
    change: (document) => {
      // SoftHSM 2.6 knows OAEP with SHA-1 only.
      document.scopes.push({
        ...{ name: "oaep-sha1", caller: "release-signer", key: "vault", audit: "written" },
        mechanisms: [{ type: "CKM_RSA_PKCS_OAEP", digest: "sha1" }],
      });
      document["certificates"] = options.certificatesOf?.(token.publicKeys) ?? {};
      options.change?.(document);
    },
  });
  // Clients of another user than this process's go there, too.
  for (const path of [directory, dirname(broker.socket("x"))]) chmodSync(path, 0o755);
  const file = (name: string): string => join(directory, name);
  const publicKey = (name: string): KeyObject =>
    createPublicKey({ key: Buffer.from(token.publicKeys.get(name)?.spki ?? []), format: "der", type: "spki" });
  const digest = createHash("sha256").update(MESSAGE).digest();
  writeFileSync(file("message"), MESSAGE);
  writeFileSync(file("digest"), digest);
  writeFileSync(file("digest-info"), Uint8Array.from([...DIGESTS.sha256.digestInfoPrefix, ...digest]));
  for (const name of token.publicKeys.keys())
    writeFileSync(file(`${name}.pem`), publicKey(name).export({ format: "pem", type: "spki" }));
  return {
    ...{ directory, broker, token, message: MESSAGE, file, publicKey },
    environment: (scope) => ({ P11_KIT_SERVER_ADDRESS: `unix:path=${broker.socket(scope)}` }),
    verifies: (name, signature, extra = {}) =>
      verify("sha256", MESSAGE, { key: publicKey(name), dsaEncoding: "ieee-p1363", ...extra }, signature),
    close: async () => {
      await broker.close();
      await token.close();
      rmSync(directory, { recursive: true });
    },
  };
}
