import { join } from "node:path";
import { AGENT_PCR, equalBytes, type Release, sealPcrValues } from "../../policy/index.ts";
import {
  type Credential,
  chooseCredentials,
  defaultNativeDirectory,
  importSealed,
  isStaleImport,
  keepImported,
  runUnsealer,
  type Store,
  type UnsealAnswer,
  type UnsealFinding,
  unsealRequest,
} from "../../seal/index.ts";
import { type CredentialCheck, checkCredential, explained } from "../doctor/index.ts";
import { AgentError } from "../errors.ts";
import { type Command, type CommandInput, type CommandIo, UsageError } from "./command.ts";
import { readInput } from "./files.ts";
import { openMachine } from "./machine-ports.ts";
import { answer, JSON_OPTION, renderJson } from "./output.ts";
import {
  ANCHORS_OPTION,
  RELEASES_OPTION,
  readAnchors,
  readReleases,
  STORE_OPTION,
  TCTI_OPTION,
  withStore,
  withTpm,
} from "./tpm-options.ts";

export const command: Command = {
  summary: "would a credential unseal now, and what stands in the way; or unseal it into a pipe. Never prints a secret",
  positionals: [],
  options: {
    check: { type: "boolean", help: "only say whether it would: nothing is unsealed, no try is counted" },
    sink: {
      type: "string",
      value: "FD",
      help: "unseal into this descriptor, which must be a pipe or socket: u16 length, secret",
    },
    machine: { type: "string", value: "DIR", help: "with --check: ask a running machine about its next boot" },
    tcti: { ...TCTI_OPTION, required: false },
    anchors: { ...ANCHORS_OPTION, required: false },
    release: { ...RELEASES_OPTION, required: false },
    sealed: { type: "string", value: "FILE", help: "sealed package", multiple: true },
    store: STORE_OPTION,
    name: { type: "string", value: "NAME", help: "with --sink: which credential (default hsm-pin)" },
    json: JSON_OPTION,
  },
  examples: [
    "ironclaw unseal --check --tcti device:/dev/tpmrm0 --anchors anchors.json --release release.json --sealed sealed.json",
    "ironclaw unseal --check --machine /tmp/ironclaw-dev-x1/vm",
    "ironclaw unseal --sink 3 --tcti swtpm:path=tpm.sock --anchors anchors.json --release release.json --sealed sealed.json",
  ],
  run: async (input, io) => {
    const sink = input.optional("sink");
    if (input.flag("check") === (sink !== undefined))
      throw new UsageError("unseal", {
        expected: "--check or --sink FD",
        got: sink === undefined ? "neither" : "both",
      });
    io.phase("asking the TPM");
    if (sink !== undefined) return unsealInto(input, io, parseSink(sink));
    const checks = input.optional("machine") === undefined ? await checkHere(input) : await checkMachine(input);
    answer(input, io, { wouldUnseal: checks.every(isClear), credentials: checks }, renderChecks(checks));
    return checks.every(isClear) ? 0 : 1;
  },
};

const isClear = ({ findings }: CredentialCheck): boolean => findings.every((found) => !found.blocks);

function renderChecks(checks: readonly CredentialCheck[]): string {
  return checks
    .flatMap((check) => [
      `${check.name}, generation ${check.generation}: ${isClear(check) ? "would unseal now" : "stays sealed"}`,
      ...check.findings.flatMap(({ code, item, expected, got, advice }) => [
        `  ${code}: ${item}: expected ${expected}, got ${got}`,
        `    ${advice}`,
      ]),
    ])
    .join("\n");
}

interface Inputs {
  readonly anchors: Awaited<ReturnType<typeof readAnchors>>;
  readonly releases: readonly Release[];
  readonly credentials: ReadonlyMap<string, Credential>;
  readonly findings: readonly UnsealFinding[];
}

async function readInputs(input: CommandInput, store: Store): Promise<Inputs> {
  const anchors = await readAnchors(input);
  const files = await Promise.all(
    input.list("sealed").map(async (path) => ({ path, bytes: await readInput(path, "sealed package") })),
  );
  const { byName, findings } = await chooseCredentials(anchors, files, store.content);
  return { anchors, releases: await readReleases(input, anchors.releaseRoot), credentials: byName, findings };
}

function checkHere(input: CommandInput): Promise<readonly CredentialCheck[]> {
  return withStore(input, (store) =>
    withTpm(input, async ({ tss }) => {
      const { anchors, releases, credentials, findings } = await readInputs(input, store);
      const checks: CredentialCheck[] = findings.map((found) => ({
        name: found.item,
        generation: 0,
        findings: explained([found]),
      }));
      const question = { anchors, releases, knownEkName: store.content.ekName, now: new Date() };
      for (const credential of credentials.values()) checks.push(await checkCredential(tss, credential, question));
      if (checks.length === 0)
        throw new UsageError("--sealed", { expected: "a package, or a store that holds one", got: "none" });
      return checks;
    }),
  );
}

async function checkMachine(input: CommandInput): Promise<readonly CredentialCheck[]> {
  const control = await openMachine(input.text("machine"));
  try {
    const { credentials } = await control.sealing("check");
    return credentials as readonly CredentialCheck[]; // shown as text only
  } finally {
    control.close();
  }
}

function parseSink(text: string): number {
  if (/^[0-9]{1,4}$/.test(text) && Number(text) > 2) return Number(text);
  throw new UsageError("--sink", { expected: "a descriptor from 3 on, e.g. 3", got: text });
}

/** As the launch does it: import once, then the one-shot unsealer. Where a launch would cap and go on, this is for trials. */
function unsealInto(input: CommandInput, io: CommandIo, sink: number): Promise<0 | 1> {
  return withStore(input, async (store) => {
    const { anchors, releases, credentials } = await readInputs(input, store);
    const name = input.optional("name") ?? "hsm-pin";
    const credential = credentials.get(name);
    if (credential === undefined)
      throw new UsageError("--sealed", {
        expected: `a package of ${name}`,
        got: [...credentials.keys()].join(" ") || "none",
      });
    const { sealed, envelope } = credential;
    const release = await withTpm(input, (tpm) => releaseOf(releases, (indices) => tpm.pcrRead("sha256", indices)));
    const importAgain = async () => {
      const imported = await withTpm(input, ({ tss }) => importSealed(tss, sealed));
      keepImported(store, { name, generation: sealed.generation, package: envelope, imported });
      return imported;
    };
    // A software TPM serves one connection at a time: ours is closed while the unsealer runs.
    const ask = (imported: Uint8Array) =>
      runUnsealer({
        path: join(defaultNativeDirectory(), "unsealer"),
        tcti: input.text("tcti"),
        request: unsealRequest({ sealed, imported, release, anchors }),
        sinks: [sink],
      });
    const first = await ask(credential.imported ?? (await importAgain()));
    const result = isStaleImport(first) && credential.imported !== null ? await ask(await importAgain()) : first;
    return report(input, io, name, result);
  });
}

/** The release that the agent PCR belongs to, else the first. */
async function releaseOf(
  releases: readonly Release[],
  read: (indices: readonly number[]) => Promise<ReadonlyMap<number, Uint8Array>>,
): Promise<Release> {
  const present = (await read([AGENT_PCR])).get(AGENT_PCR) ?? new Uint8Array();
  const fits = releases.find((release) =>
    equalBytes(sealPcrValues(release).get(AGENT_PCR) ?? new Uint8Array(), present),
  );
  const chosen = fits ?? releases[0];
  if (chosen === undefined) throw new UsageError("--release", { expected: "a file", got: "none" });
  return chosen;
}

function report(input: CommandInput, io: CommandIo, name: string, result: UnsealAnswer): 0 | 1 {
  if (result.kind === "released") {
    io.complain(input.flag("json") ? renderJson({ name, ...result }) : `${name}: released in ${result.ms} ms`);
    return 0;
  }
  if (result.kind === "refused") {
    const answers = result.answers.map(({ command, rc, text }) => `${command} ${rc}: ${text}`).join("; ");
    io.complain(input.flag("json") ? renderJson({ name, ...result }) : `${name}: refused by the TPM: ${answers}`);
    return 1;
  }
  const got = result.kind === "failed" ? `${result.command} ${result.rc} ${result.text}` : result.kind;
  throw new AgentError("ERR_ENVIRONMENT", `unsealer for ${name}`, { expected: "an answer of the TPM", got });
}
