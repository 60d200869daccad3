import { type ChildProcess, execFile, spawn } from "node:child_process";
import { chmodSync, chownSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { stockServers } from "../support/stock-clients.ts";
import { type StockScopes, startStockScopes } from "../support/stock-scopes.ts";

// Applications as they are packaged, with nothing but an environment variable or a .module file: the key behind a scope is theirs to use.
const CLIENT = "/usr/lib/x86_64-linux-gnu/pkcs11/p11-kit-client.so";
const EC_KEY = "pkcs11:object=release-ec;type=private";
const run = promisify(execFile);
const isRoot = process.getuid?.() === 0;
const NOBODY = 65534;
const DROP = ["setpriv", "--reuid", `${NOBODY}`, "--regid", `${NOBODY}`, "--clear-groups"];

let scopes: StockScopes;
let servers: Awaited<ReturnType<typeof stockServers>>;
beforeAll(async () => {
  [scopes, servers] = await Promise.all([startStockScopes(), stockServers()]);
});
afterAll(() => scopes.close());

interface RunOptions {
  readonly scope?: string;
  readonly env?: Record<string, string>;
  readonly input?: string | Uint8Array;
}

async function tool(program: string, args: readonly string[], options: RunOptions = {}): Promise<string> {
  const { scope = "release-signing", env = {}, input = "" } = options;
  const running = run(program, args, {
    env: { ...process.env, ...scopes.environment(scope), PKCS11_MODULE_PATH: CLIENT, ...env },
    cwd: scopes.directory,
  });
  running.child.stdin?.on("error", () => {}).end(input);
  const { stdout, stderr } = await running;
  return stdout + stderr;
}

describe("OpenSSL's engine of libp11", () => {
  const engine = ["-engine", "pkcs11", "-keyform", "engine"];

  it.each([
    ["release-signing", "release-ec"],
    ["rsa-signing", "release-rsa"],
  ])("I6: in scope %s, makes a certificate and a CMS signature with %s", async (scope, key) => {
    const [certificate, signed] = [scopes.file(`${key}.crt`), scopes.file(`${key}.cms`)];
    const uri = `pkcs11:object=${key};type=private`;
    const names = ["-subj", "/CN=localhost", "-days", "30", "-sha256", "-out", certificate];
    await tool("openssl", ["req", "-x509", "-new", ...engine, "-key", uri, ...names], { scope });
    const signer = ["-inkey", uri, "-signer", certificate, "-md", "sha256", "-nodetach", "-binary"];
    await tool("openssl", ["cms", "-sign", ...engine, ...signer, "-in", "message", "-outform", "DER", "-out", signed], {
      scope,
    });
    const verified = ["-inform", "DER", "-in", signed, "-CAfile", certificate, "-purpose", "any", "-binary"];
    expect(await tool("openssl", ["cms", "-verify", ...verified])).toContain("release 1.2.3");
  });
});

describe("nginx with a key by the engine", () => {
  /** TLS 1.3 by the socket; what the server answered. */
  const request = (): Promise<string> =>
    tool(
      "openssl",
      ["s_client", "-quiet", "-verify_return_error", "-CAfile", "nginx.crt", "-unix", scopes.file("https.sock")],
      { input: "GET / HTTP/1.0\r\n\r\n" },
    );

  it("I6: each worker of a master that forked makes handshakes over a connection of its own", async () => {
    const subject = ["-subj", "/CN=localhost", "-sha256", "-out", "nginx.crt"];
    await tool("openssl", [
      "req",
      "-x509",
      "-new",
      "-engine",
      "pkcs11",
      "-keyform",
      "engine",
      "-key",
      EC_KEY,
      ...subject,
    ]);
    writeFileSync(scopes.file("nginx.conf"), nginxConfiguration());
    const before = scopes.broker.requests.length;
    const arguments_ = ["-c", scopes.file("nginx.conf"), "-p", scopes.directory, "-e", "stderr"];
    const env = { ...scopes.environment("release-signing"), PKCS11_MODULE_PATH: CLIENT };
    const nginx = spawn(servers.nginx, arguments_, {
      env: { ...process.env, ...env, LD_LIBRARY_PATH: servers.libraries },
      stdio: ["ignore", "ignore", "pipe"],
    });
    try {
      await said(nginx, /start worker process \d+[\s\S]*start worker process \d+/);
      const served = new Set<string>();
      while (served.size < 2) served.add(/worker \d+/.exec(await request())?.[0] ?? "no worker");
      expect([...served].every((worker) => /^worker \d+$/.test(worker))).toBe(true);
      expect(scopes.broker.requests.length - before).toBeGreaterThanOrEqual(2);
    } finally {
      await stopped(nginx);
    }
  });

  function nginxConfiguration(): string {
    const paths = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(
      (name) => `${name}_temp_path ${scopes.file(`${name}-temp`)};`,
    );
    return `daemon off; pid ${scopes.file("nginx.pid")}; error_log stderr notice; worker_processes 2; ssl_engine pkcs11;
env P11_KIT_SERVER_ADDRESS; env PKCS11_MODULE_PATH; events { worker_connections 64; accept_mutex off; }
http { access_log off; ${paths.join(" ")}
  server { listen unix:${scopes.file("https.sock")} ssl; ssl_certificate ${scopes.file("nginx.crt")};
    ssl_certificate_key "engine:pkcs11:${EC_KEY}"; ssl_session_cache off;
    location / { return 200 "worker $pid\\n"; } } }
`;
  }
});

describe("GnuTLS by a .module file, without any environment variable of p11-kit", () => {
  it("I6: lists the scope's token among the others, exports the public key, and makes a certificate", async () => {
    const configuration = scopes.file("config");
    mkdirSync(`${configuration}/pkcs11/modules`, { recursive: true });
    const template = readFileSync(new URL("../../agent/p11kit/deploy/ironclaw.module", import.meta.url), "utf8");
    const socket = scopes.broker.socket("release-signing");
    const module = template.replace(/unix:path=\S+/, `unix:path=${socket}`);
    writeFileSync(`${configuration}/pkcs11/modules/ironclaw-release.module`, module);
    const out = scopes.file("gnutls");
    mkdirSync(out);
    chmodSync(out, 0o777);
    const gnutls = (program: string, ...args: string[]) => asUser(program, args, configuration);
    const modules = await gnutls("p11-kit", "list-modules");
    expect(modules).toMatch(/ironclaw-release: [^\n]*\n\s+library-description: scope release-signing/);
    const listed = await gnutls("p11tool", "--list-all", "--only-urls", "pkcs11:manufacturer=IronClaw");
    const url = listed.split("\n").find((line) => line.endsWith("type=public")) ?? "none";
    const exported = await gnutls("p11tool", "--export-pubkey", url);
    expect(exported.replaceAll("\r", "")).toContain(readFileSync(scopes.file("release-ec.pem"), "utf8"));
    const key = url.replace("type=public", "type=private");
    expect(await gnutls("p11tool", "--test-sign", key)).toMatch(/public key in the token... ok/);
    writeFileSync(`${out}/template`, 'cn = "gnutls"\nserial = 1\nexpiration_days = 30\nsigning_key\n');
    const files = ["--template", `${out}/template`, "--hash", "SHA256", "--outfile", `${out}/certificate`];
    await gnutls("certtool", "--generate-self-signed", "--load-privkey", key, "--load-pubkey", url, ...files);
    const certificate = `${out}/certificate`;
    expect(await tool("openssl", ["verify", "-CAfile", certificate, certificate])).toMatch(/: OK/);
  });

  /** p11-kit reads no user's configuration as root. */
  async function asUser(program: string, args: readonly string[], configuration: string): Promise<string> {
    const [command = program, ...rest] = [...(isRoot ? DROP : []), program, ...args];
    const env = {
      PATH: process.env["PATH"],
      XDG_CONFIG_HOME: configuration,
      P11_KIT_STRICT: "1",
      TSS2_LOG: "all+none",
    };
    const { stdout, stderr } = await run(command, rest, { env });
    return stdout + stderr;
  }
});

describe("OpenSSH", () => {
  it("I6: lists the key, and signs a file through its agent", async () => {
    const key = await tool("ssh-keygen", ["-D", CLIENT]);
    expect(key).toMatch(/^ecdsa-sha2-nistp256 \S+ release-ec\n/);
    writeFileSync(scopes.file("ssh.pub"), key);
    const agent = spawn("ssh-agent", ["-D", "-a", scopes.file("agent.sock")], {
      env: { ...process.env, ...scopes.environment("release-signing") },
      stdio: ["ignore", "pipe", "ignore"],
    });
    const env = { SSH_AUTH_SOCK: scopes.file("agent.sock") };
    try {
      await said(agent, /SSH_AUTH_SOCK/);
      await tool("ssh-add", ["-s", CLIENT], {
        env: { ...env, SSH_ASKPASS_REQUIRE: "force", SSH_ASKPASS: "/bin/true" },
      });
      await tool("ssh-keygen", ["-Y", "sign", "-n", "file", "-f", "ssh.pub", "message"], { env });
    } finally {
      await stopped(agent);
    }
    writeFileSync(scopes.file("allowed"), `signer ${key}`);
    const verify = ["-Y", "verify", "-n", "file", "-I", "signer", "-f", "allowed", "-s", "message.sig"];
    expect(await tool("ssh-keygen", verify, { input: scopes.message })).toMatch(/Good "file" signature for signer/);
  });

  it("I6: logs in at a server with the key", async () => {
    writeFileSync(scopes.file("authorized"), await tool("ssh-keygen", ["-D", CLIENT]));
    const [host, configuration] = [scopes.file("host-key"), scopes.file("sshd")];
    await tool("ssh-keygen", ["-q", "-t", "ed25519", "-N", "", "-f", host]);
    const files = `HostKey ${host}\nAuthorizedKeysFile ${scopes.file("authorized")}\n`;
    writeFileSync(configuration, `${files}PidFile none\nUsePAM yes\nStrictModes no\n`);
    // As root sshd needs the user and the directory of its package; as anybody else it lets in that user only.
    if (isRoot) chownSync(host, NOBODY, NOBODY);
    const user = (await tool("id", ["-un", ...(isRoot ? [`${NOBODY}`] : [])])).trim();
    const server = [servers.sshd, "-i", "-e", "-f", configuration];
    const start = `env LD_LIBRARY_PATH=${servers.libraries} ${[...(isRoot ? DROP : []), ...server].join(" ")}`;
    const options = [
      ...[`PKCS11Provider=${CLIENT}`, `ProxyCommand=${start}`, "BatchMode=yes", "IdentityFile=none"],
      ...["UserKnownHostsFile=/dev/null", "StrictHostKeyChecking=no"],
    ].flatMap((option) => ["-o", option]);
    const login = tool("ssh", ["-F", "none", ...options, `${user}@localhost`, "true"]);
    // Nobody's shell says that nobody may not stay.
    const said = await login.catch((error: { stderr: string }) => error.stderr);
    expect(said).toMatch(/^Accepted publickey for \S+ .*: ECDSA SHA256:/m);
    expect(scopes.broker.records().at(-1)).toMatchObject({ decision: "allow", mechanism: "CKM_ECDSA" });
  });
});

describe("Java's SunPKCS11", () => {
  const PROGRAM = `import java.security.*; import java.util.*;
class Door { public static void main(String[] a) throws Exception {
  Provider p = Security.getProvider("SunPKCS11").configure(a[0]); Security.addProvider(p);
  MessageDigest d = MessageDigest.getInstance("SHA-256", p);
  System.out.println("digest " + HexFormat.of().formatHex(d.digest("release 1.2.3\\n".getBytes())));
  byte[] r = new byte[24]; SecureRandom.getInstance("PKCS11", p).nextBytes(r); System.out.println("random " + r.length);
  KeyStore ks = KeyStore.getInstance("PKCS11", p); ks.load(null, "any".toCharArray());
  System.out.println("entries " + ks.size() + " " + (Signature.getInstance("SHA256withECDSA", p) != null));
}}
`;

  it("I6: hashes, gets random bytes and opens the key store; without a certificate it shows no entry", async () => {
    writeFileSync(scopes.file("java.cfg"), `name = IronClaw\nlibrary = ${CLIENT}\n`);
    writeFileSync(scopes.file("Door.java"), PROGRAM);
    const output = await tool("java", [
      "-Xshare:auto",
      "-XX:TieredStopAtLevel=1",
      "Door.java",
      scopes.file("java.cfg"),
    ]);
    const digest = readFileSync(scopes.file("digest")).toString("hex");
    expect(output).toBe(`digest ${digest}\nrandom 24\nentries 0 true\n`);
  });
});

/** Resolves when the process has printed it; rejects with what it printed when it ends before. */
function said(child: ChildProcess, what: RegExp): Promise<void> {
  let text = "";
  return new Promise((resolve, reject) => {
    const hear = (chunk: Buffer): void => {
      text += chunk.toString();
      if (what.test(text)) resolve();
    };
    child.stdout?.on("data", hear);
    child.stderr?.on("data", hear);
    child.on("error", reject);
    child.on("exit", () => reject(new Error(text)));
  });
}

function stopped(child: ChildProcess): Promise<void> {
  return new Promise((resolve) => {
    if (child.exitCode !== null || child.signalCode !== null) resolve();
    child.once("exit", () => resolve());
    child.kill("SIGTERM");
  });
}
