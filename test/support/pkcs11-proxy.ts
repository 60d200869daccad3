import { execFileSync } from "node:child_process";
import { once } from "node:events";
import { readFileSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";
import { freePort, makeDirectory, type PairBench, startDaemon } from "./relay-pair.ts";
import { makeToken, SOFTHSM, TEST_PIN } from "./shim-fixture.ts";

/** What the proxy calls the library behind it. */
export const PROXIED = "proxied";

export interface Pkcs11Proxy {
  readonly port: number;
  /** SPKI, DER. */
  publicKey(id: string): Uint8Array;
  stop(): Promise<void>;
}

/** Debian's pkcs11proxyd on loopback, in front of SoftHSM with the token `bench` and its keys `ec` and `rsa`. */
export async function startProxy(bench: PairBench): Promise<Pkcs11Proxy> {
  const { environment } = makeToken(bench);
  const directory = makeDirectory(bench, "proxy");
  const port = await freePort();
  const config = join(directory, "proxy.conf");
  writeFileSync(join(directory, "filter.conf"), `debug = 0\nmodules = [("${PROXIED}", "${SOFTHSM}")]\n`);
  writeFileSync(config, configuration(directory, port));
  const daemon = await startDaemon(["pkcs11proxyd", "-conf", config, "-fg"], environment, () => answers(port));
  return {
    port,
    publicKey: (id) => {
      const file = join(directory, `${id}.spki`);
      execFileSync(
        "pkcs11-tool",
        [
          "--module",
          SOFTHSM,
          "--login",
          "--pin",
          TEST_PIN,
          "--read-object",
          "--type",
          "pubkey",
          "--id",
          id,
          "-o",
          file,
        ],
        { env: { ...process.env, ...environment }, stdio: "pipe" },
      );
      return new Uint8Array(readFileSync(file));
    },
    stop: () => daemon.stop(),
  };
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
