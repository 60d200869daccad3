import { execFileSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { addTokenKey, type BenchToken, openSoftHsm, type TokenKey } from "./launch-token.ts";
import { type Pkcs11Proxy, PROXY_CLIENT, PROXY_CLIENT_CONFIG, proxyEnvironment, startProxy } from "./pkcs11-proxy.ts";
import { SOFTHSM } from "./shim-fixture.ts";

/** The port at which the relay listens in the shim's network. */
const LISTEN = 1500;

/** A network HSM: SoftHSM behind Debian's pkcs11proxyd, which can be killed, and its client's library. */
export interface DrillHsm extends AsyncDisposable {
  /** As the library of the machine sees it. */
  readonly token: BenchToken;
  readonly connect: readonly { readonly listen: string; readonly to: string }[];
  kill(): Promise<void>;
  start(): Promise<void>;
  /** Everything that asks it waits until `resume`. */
  pause(): void;
  resume(): void;
  changePin(from: string, to: string): void;
  /** Another unit at the same address, into which the keys were put from a backup. Its serial number. */
  replace(): Promise<string>;
}

/** @param keys besides those that every bench has */
export async function openDrillHsm(directory: string, keys: readonly TokenKey[] = []): Promise<DrillHsm> {
  mkdirSync(directory, { recursive: true });
  const soft = await openSoftHsm(directory);
  const added = keys.map((key) => [key.label, addTokenKey(directory, key)] as const);
  let proxy: Pkcs11Proxy = await startProxy({ directory }, soft.environment);
  const { port } = proxy;
  const kill = () => proxy.stop();
  const start = async () => {
    proxy = await startProxy({ directory }, soft.environment, port);
  };
  return {
    token: {
      ...{ ...soft, keys: { ...soft.keys, ...Object.fromEntries(added) } },
      ...{ library: PROXY_CLIENT, config: PROXY_CLIENT_CONFIG, environment: proxyEnvironment(LISTEN) },
    },
    connect: [{ listen: `127.0.0.1:${LISTEN}`, to: `127.0.0.1:${port}` }],
    ...{ kill, start, [Symbol.asyncDispose]: kill },
    pause: () => proxy.signal("SIGSTOP"),
    resume: () => proxy.signal("SIGCONT"),
    changePin: (from, to) => {
      const change = ["--login", "--pin", from, "--change-pin", "--new-pin", to];
      execFileSync("pkcs11-tool", ["--module", SOFTHSM, "--token-label", soft.label, ...change], {
        env: { ...process.env, ...soft.environment },
        stdio: "pipe",
      });
    },
    replace: async () => {
      await kill();
      const serial = randomBytes(8).toString("hex");
      giveSerial(soft.directory, soft.serial, serial);
      await start();
      return serial;
    },
  };
}

/** SoftHSM keeps a token's serial number as text in its object: one of another number and with the same keys is a restored backup. */
function giveSerial(tokens: string, from: string, to: string): void {
  const [name = ""] = readdirSync(tokens);
  const object = join(tokens, name, "token.object");
  const bytes = readFileSync(object);
  const at = bytes.indexOf(from, 0, "latin1");
  if (at < 0) throw new Error(`${object}: no serial number ${from}`);
  bytes.write(to, at, "latin1");
  writeFileSync(object, bytes);
}
