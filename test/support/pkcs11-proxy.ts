import { execFileSync } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";
import { type Daemon, freePort, type PairBench, startDaemon } from "./relay-pair.ts";
import { makeToken, SOFTHSM, TEST_PIN } from "./shim-fixture.ts";

/** The library that speaks to the proxy over TCP, from Debian's caml-crush-clients. */
export const PROXY_CLIENT = "/usr/lib/x86_64-linux-gnu/caml-crush/libp11clienttcp.so";
/** Files that it reads. */
export const PROXY_CLIENT_CONFIG: readonly string[] = ["/etc/netconfig"];

/** What the proxy calls the library behind it. */
export const PROXIED = "proxied";

/** What the client finds its proxy by. */
export function proxyEnvironment(port: number): Readonly<Record<string, string>> {
  return { PKCS11PROXY_LIBNAME: PROXIED, PKCS11PROXY_SOCKET_PATH: `127.0.0.1:${port}` };
}

export interface Pkcs11Proxy extends Daemon {
  readonly port: number;
}

/** A proxy with a token of its own. */
export interface TokenProxy extends Pkcs11Proxy {
  /** SPKI, DER. */
  publicKey(id: string): Uint8Array;
}

/** In front of the token `bench` and its keys `ec` and `rsa`. */
export async function startTokenProxy(bench: PairBench): Promise<TokenProxy> {
  const { environment } = makeToken(bench);
  const proxy = await startProxy(bench, environment);
  return { ...proxy, publicKey: (id) => readPublicKey(join(bench.directory, `${id}.spki`), id, environment) };
}

/** Debian's pkcs11proxyd on loopback, in front of the SoftHSM that these variables configure; `at`: where it was before. */
export async function startProxy(
  bench: Pick<PairBench, "directory">,
  environment: Readonly<Record<string, string>>,
  at?: number,
): Promise<Pkcs11Proxy> {
  const directory = join(bench.directory, "proxy");
  mkdirSync(directory, { recursive: true });
  const port = at ?? (await freePort());
  const config = join(directory, "proxy.conf");
  writeFileSync(join(directory, "filter.conf"), `debug = 0\nmodules = [("${PROXIED}", "${SOFTHSM}")]\n`);
  writeFileSync(config, configuration(directory, port));
  const daemon = await startDaemon(["pkcs11proxyd", "-conf", config, "-fg"], environment, () => answers(port));
  return { port, ...daemon };
}

function readPublicKey(file: string, id: string, environment: Readonly<Record<string, string>>): Uint8Array {
  const login = ["--module", SOFTHSM, "--login", "--pin", TEST_PIN];
  const read = ["--read-object", "--type", "pubkey", "--id", id, "-o", file];
  execFileSync("pkcs11-tool", [...login, ...read], { env: { ...process.env, ...environment }, stdio: "pipe" });
  return new Uint8Array(readFileSync(file));
}

function configuration(directory: string, port: number): string {
  return `netplex {
  controller { max_level = "err"; socket_directory = "${directory}"; logging { type = "stderr"; }; };
  service {
    name = "proxy"; conn_limit = 1;
    protocol { name = "rpc_pkcs11"; address { type = "internet"; bind = "127.0.0.1:${port}"; }; };
    processor { type = "rpc_pkcs11"; filter_config = "${directory}/filter.conf"; use_ssl = false; };
    workload_manager {
      type = "dynamic"; max_jobs_per_thread = 1; min_free_jobs_capacity = 1; max_free_jobs_capacity = 1; max_threads = 16;
    };
  }
}
`;
}

async function answers(port: number): Promise<boolean> {
  const socket = connect(port, "127.0.0.1");
  const outcome = await once(socket, "connect").then(
    () => true,
    () => false,
  );
  socket.destroy();
  return outcome;
}
