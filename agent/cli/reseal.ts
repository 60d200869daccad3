import { toBase64 } from "../../policy/index.ts";
import { abortReseal, commitServed, reseal, verifySealedPackage } from "../../seal/index.ts";
import { type Command, type CommandInput, UsageError } from "./command.ts";
import { readInput } from "./files.ts";
import { openMachine } from "./machine-ports.ts";
import { answer, JSON_OPTION } from "./output.ts";
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
  summary:
    "hand a new generation of a credential to a machine, as a transaction: the one that served stays until the new one has",
  positionals: [],
  options: {
    sealed: { type: "string", value: "FILE", help: "the new package, from `ironclaw seal --generation N`" },
    abort: { type: "string", value: "NAME", help: "give up a generation that has not served yet" },
    served: {
      type: "string",
      value: "NAME",
      help: "with --store: the pending generation has served; a machine says so by itself",
    },
    machine: { type: "string", value: "DIR", help: "the running machine's directory of port sockets" },
    tcti: {
      ...TCTI_OPTION,
      required: false,
      help: "a TPM, with --store, --anchors and --release, instead of a machine",
    },
    store: STORE_OPTION,
    anchors: { ...ANCHORS_OPTION, required: false },
    release: { ...RELEASES_OPTION, required: false },
    json: JSON_OPTION,
  },
  examples: [
    "ironclaw reseal --sealed sealed-2.json --machine /tmp/ironclaw-dev-x1/vm",
    "ironclaw reseal --abort hsm-pin --machine /tmp/ironclaw-dev-x1/vm",
    "ironclaw reseal --sealed sealed-2.json --tcti swtpm:path=tpm.sock --store store.img --anchors anchors.json --release release.json",
  ],
  run: async (input, io) => {
    const acts = ["sealed", "abort", "served"].filter((name) => input.optional(name) !== undefined);
    if (acts.length !== 1)
      throw new UsageError("reseal", {
        expected: "one of --sealed, --abort and --served",
        got: acts.join(" and ") || "none",
      });
    io.phase("handing the package to the TPM");
    const facts = input.optional("machine") === undefined ? await resealHere(input) : await resealMachine(input);
    answer(input, io, facts, SENTENCES[facts.act](facts));
    return 0;
  },
};

interface ResealFacts {
  readonly act: "pending" | "aborted" | "served";
  readonly name: string;
  readonly generation: number | null;
}

const SENTENCES: Readonly<Record<ResealFacts["act"], (facts: ResealFacts) => string>> = {
  pending: ({ name, generation }) => `${name}: generation ${generation} is pending, and is used by the next boot`,
  aborted: ({ name }) => `${name}: the pending generation is given up`,
  served: ({ name, generation }) => `${name}: generation ${generation} has served, earlier ones are gone`,
};

async function resealMachine(input: CommandInput): Promise<ResealFacts> {
  const control = await openMachine(input.text("machine"));
  try {
    const abort = input.optional("abort");
    if (abort !== undefined) {
      await control.sealing("abort-reseal", { name: abort });
      return { act: "aborted", name: abort, generation: null };
    }
    const bytes = await readInput(input.text("sealed"), "sealed package");
    const { name, generation } = await control.sealing("reseal", { package: toBase64(bytes) });
    return { act: "pending", name: String(name), generation: Number(generation) };
  } finally {
    control.close();
  }
}

function resealHere(input: CommandInput): Promise<ResealFacts> {
  input.text("store"); // a reseal into a store that forgets would be none
  return withStore(input, async (store): Promise<ResealFacts> => {
    const abort = input.optional("abort");
    if (abort !== undefined) {
      abortReseal(store, abort);
      return { act: "aborted", name: abort, generation: null };
    }
    const anchors = await readAnchors(input);
    const served = input.optional("served");
    if (served !== undefined) {
      const entry = store.content.entries.findLast(({ name }) => name === served);
      if (entry === undefined) throw new UsageError("--served", { expected: "a credential of the store", got: served });
      commitServed(store, entry, (await verifySealedPackage(entry.package, anchors)).ekName);
      return { act: "served", name: served, generation: entry.generation };
    }
    const releases = await readReleases(input, anchors.releaseRoot);
    const envelope = await readInput(input.text("sealed"), "sealed package");
    return withTpm(input, async ({ tss }): Promise<ResealFacts> => {
      const { name, generation } = await reseal({ tss, store, anchors, envelope, releases, now: new Date() });
      return { act: "pending", name, generation };
    });
  });
}
