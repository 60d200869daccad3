import { spawn } from "node:child_process";
import { createPublicKey, hash, verify } from "node:crypto";
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { buffer } from "node:stream/consumers";
import { modulePolicy } from "../../attest/index.ts";
import { sha256Hex, utf8 } from "../../policy/index.ts";
import { layOutVerifier, type VerifierFolder } from "../../vm-images/story/verifier-folder.ts";
import { type CliResult, cli } from "./cli.ts";
import { layOutEndorsement } from "./cli-layout.ts";
import { type DrillHsm, openDrillHsm } from "./drill-hsm.ts";
import { type DrillMachine, openDrillMachine } from "./drill-machine.ts";
import { changeModule, type PolicyDraft, pinOf, policyDraft } from "./launch-documents.ts";
import { type BenchToken, LAUNCH_PIN, type TokenKey } from "./launch-token.ts";
import { peImage, stubMagic } from "./pe-image.ts";
import { NATIVE_DIRECTORY } from "./shim-fixture.ts";
import { putProgram } from "./walk-through.ts";

/** The only caller of the machine's scope: a stock client as an ordinary user. */
export const CALLER = { uid: 2001, program: "/usr/bin/pkcs11-tool" } as const;

/** The operator's folder, with one machine, `vm-1`, that was released, sealed and given its cabinet, and never booted. */
export interface DrillDesk extends AsyncDisposable {
  readonly directory: string;
  readonly machine: DrillMachine;
  readonly hsm: DrillHsm;
  readonly verifier: VerifierFolder;
  at(name: string): string;
}

export interface DeskOptions {
  readonly onLoginLost?: "reboot" | "stop";
  readonly spares?: number;
  /** What the HSM holds besides the keys that every one has. */
  readonly keys?: readonly TokenKey[];
  /** Changes the policy whose one scope is `CALLER`'s, once the HSM is there. */
  readonly policy?: (draft: PolicyDraft, token: BenchToken) => void;
  /** A command that runs the agent's own. */
  readonly through?: readonly string[];
}

export async function openDrillDesk(options: DeskOptions = {}): Promise<DrillDesk> {
  const directory = mkdtempSync(join(tmpdir(), "drill-"));
  chmodSync(directory, 0o755);
  const at = (name: string) => join(directory, name);
  const started: AsyncDisposable[] = [];
  const dispose = async () => {
    for (const each of started.reverse()) await each[Symbol.asyncDispose]();
    rmSync(directory, { recursive: true, force: true });
  };
  try {
    const machine = await openDrillMachine(at("vm-1"), options.through);
    started.push(machine);
    const hsm = await openDrillHsm(at("hsm"), options.keys);
    started.push(hsm);
    await putProgram(directory);
    await layOutEndorsement(directory, machine.tpm);
    for (const image of ["image-1", "image-2"]) layOutImage(at(image), machine, image);
    writeFileSync(at("policy.json"), policyFor(hsm, options));
    await makeDocuments(at, hsm);
    const verifier = await layOutVerifier(at("verifier"), authorityOf(machine), {
      anchors: new Uint8Array(readFileSync(at("anchors.json"))),
      release: new Uint8Array(readFileSync(at("one.json"))),
    });
    return { directory, machine, hsm, verifier, at, [Symbol.asyncDispose]: dispose };
  } catch (error) {
    await dispose();
    throw error;
  }
}

function authorityOf({ tpm: { caFiles } }: DrillMachine) {
  const [caRoot = "", caIssuer = ""] = caFiles;
  return { caRoot, caIssuer };
}

/** What `release predict` reads of an image: a kernel that only this one has, the machine's configuration, the shim. */
function layOutImage(directory: string, { config }: DrillMachine, name: string): void {
  const put = (path: string, bytes: Uint8Array | string) => {
    mkdirSync(dirname(join(directory, path)), { recursive: true });
    writeFileSync(join(directory, path), bytes);
  };
  const uki = peImage([
    [".text", Buffer.from("stub")],
    stubMagic(),
    [".osrel", Buffer.from("ID=ironclaw\n")],
    [".cmdline", Buffer.from("console=ttyS0 ironclaw.variant=demo")],
    [".linux", peImage([[".text", Buffer.from(`kernel of ${name}`)]])],
    [".initrd", Buffer.from(`initrd of ${name}`)],
  ]);
  const id = sha256Hex(uki);
  put("uki.efi", uki);
  put("tree/etc/ironclaw/agent.json", config);
  put("tree/usr/lib/ironclaw/shim", readFileSync(join(NATIVE_DIRECTORY, "shim")));
  put("manifest.json", JSON.stringify({ stamp: "", manifest: { id, variant: "demo", files: { "uki.efi": id } } }));
}

function policyFor({ token, connect }: DrillHsm, options: DeskOptions): string {
  const { onLoginLost = "reboot", spares = 1, policy } = options;
  const programs = NATIVE_DIRECTORY;
  const digestOf = (path: string) => sha256Hex(new Uint8Array(readFileSync(path)));
  const draft = policyDraft({ programs, token });
  const config = Object.fromEntries(token.config.map((path) => [path, digestOf(path)]));
  changeModule(draft, {
    ...modulePolicy(pinOf({ programs }, token.library), config, token.environment),
    profile: { name: "relay", sha256: digestOf(join(programs, "relay.profile")) },
    ...{ connect: [...connect], writable: [], spares },
  });
  const callers = { signer: { uid: CALLER.uid, exe: [`sha256:${digestOf(CALLER.program)}` as const], unit: null } };
  Object.assign(draft, { callers, onLoginLost });
  policy?.(draft, token);
  return `${JSON.stringify(draft, null, 2)}\n`;
}

/** As agent/cli/README.md has it. */
async function makeDocuments(at: (name: string) => string, { token }: DrillHsm): Promise<void> {
  for (const path of [token.library, ...token.config]) {
    mkdirSync(dirname(at(`module${path}`)), { recursive: true });
    writeFileSync(at(`module${path}`), readFileSync(path));
  }
  const paths = (options: Readonly<Record<string, string>>) =>
    Object.entries(options).flatMap(([name, file]) => [`--${name}`, at(file)]);
  for (const name of ["root", "release", "operator"]) await ironclaw(["keys", "new", at(`${name}.pem`)]);
  await ironclaw(["keys", "anchors", ...paths({ root: "root.pub", operator: "operator.pub", out: "anchors.json" })]);
  const delegated = ["--last-epoch", "9", "--credential", "hsm-pin", "--credential", "state"];
  const delegation = { root: "root.pem", "release-key": "release.pub", out: "delegation.json" };
  await ironclaw(["keys", "delegate", ...delegated, ...paths(delegation)]);
  const predicted = { image: "image-1", anchors: "anchors.json", policy: "policy.json", out: "one-prediction.json" };
  await ironclaw(["release", "predict", ...paths(predicted)]);
  const validity = ["--name", "one", "--epoch", "1", "--not-after", "2099-01-01T00:00:00Z"];
  const signed = { key: "release.pem", delegation: "delegation.json", anchors: "anchors.json", out: "one.json" };
  await ironclaw(["release", "sign", at("one-prediction.json"), ...validity, ...paths(signed)]);
  const ek = { "ek-certificate": "ek.der", issuer: "ek-issuer.pem", ca: "ek-ca.pem" };
  const sealed = { ...ek, root: "root.pub", operator: "operator.pem", out: "hsm-pin.json" };
  await ironclaw(["seal", "--token-serial", token.serial, ...paths(sealed)], LAUNCH_PIN);
  const given = { module: "module", policy: "policy.json", anchors: "anchors.json", release: "one.json" };
  const cabinet = ["cabinet", "new", at("vm-1/cabinet.img"), "--name", "vm-1"];
  await ironclaw([...cabinet, ...paths({ ...given, sealed: "hsm-pin.json" })]);
}

async function ironclaw(words: readonly string[], input = ""): Promise<void> {
  const { code, err } = await cli(words, input);
  if (code !== 0 || err !== "") throw new Error(`ironclaw ${words.join(" ")}: ended with ${code}: ${err}`);
}

/** At the verifier, which runs, as does the machine. */
export async function enrolMachine({ at, verifier }: DrillDesk): Promise<void> {
  const [operator, token] = [join(verifier.folder, "operator.token"), at("vm-1.token")];
  const service = ["--to", verifier.url];
  await ironclaw(["verifier", "invite", "vm-1", ...service, "--token", operator, "--out", token]);
  const machine = ["vm-1", "--machine", at("vm-1"), ...service, "--token", token];
  await ironclaw(["verifier", "enrol", ...machine, "--issuer", verifier.issuer]);
}

/** One report to the verifier. */
export function pushReport({ at, verifier }: DrillDesk): Promise<CliResult> {
  return cli(["verifier", "push", "--machine", at("vm-1"), "--name", "vm-1", "--to", verifier.url, "--once"]);
}

const CLIENT = "/usr/lib/x86_64-linux-gnu/pkcs11/p11-kit-client.so";

/** A signature through the machine's scope, by its caller, checked with the token's public key. Needs root, which can become another user. */
export async function signedByCaller({ machine, hsm }: DrillDesk): Promise<boolean> {
  const message = utf8("what the caller of vm-1 has signed\n");
  const sign = ["--module", CLIENT, "--sign", "--mechanism", "ECDSA", "--label", "release-ec"];
  // Not a call that waits: the machine's TPM is served by this process.
  const child = spawn(CALLER.program, sign, {
    ...{ uid: CALLER.uid, gid: CALLER.uid, cwd: "/" },
    stdio: ["pipe", "pipe", "ignore"],
    env: { P11_KIT_SERVER_ADDRESS: `unix:path=${join(machine.directory, "inside/scopes/release-signing.sock")}` },
  });
  child.stdin.on("error", () => undefined).end(hash("sha256", message, "buffer"));
  const signature = await buffer(child.stdout);
  const key = createPublicKey({ key: Buffer.from(hsm.token.keys["release-ec"] ?? []), format: "der", type: "spki" });
  return verify("sha256", message, { key, dsaEncoding: "ieee-p1363" }, signature);
}
