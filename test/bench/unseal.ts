import { execFileSync } from "node:child_process";
import { closeSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { ekProfiles } from "../../attest/index.ts";
import { ByteWriter, equalBytes, type Release } from "../../policy/index.ts";
import { runUnsealer, unsealRequest } from "../../seal/index.ts";
import { defineEpoch } from "../support/epoch-fixture.ts";
import {
  bootInto,
  createSealKeys,
  delivered,
  drain,
  type Imported,
  importInto,
  makeRelease,
  openPipes,
  openSealed,
  type Pipe,
  type SealKeys,
  UNSEALER,
} from "../support/seal-fixture.ts";
import { type SoftwareTpm, startSwtpm } from "../support/swtpm.ts";
import { compareTimes, type Row, type Suite, timeRow } from "./bench.ts";

const root = resolve(import.meta.dirname, "../..");
const EKS = ["p384", "rsa"] as const;
const TARGET = 1.5;
const WHAT = {
  unseal: "imported object to PIN in the pipe, vs a bare C program over ESYS with the same TPM commands",
  "unseal-import": "import blob to PIN in the pipe, vs the same bare C program, importing as well",
} as const;
type Kind = keyof typeof WHAT;
const KINDS = Object.keys(WHAT) as readonly Kind[];

/** `unseal` and `unseal-import`, each under both EKs; the row without an EK's name repeats the worse of the two. */
export const unsealSuite: Suite = {
  ids: KINDS.flatMap((kind) => [kind, ...EKS.map((ek) => `${kind}-${ek}`)]),
  run: async (wanted, { iterations }) => {
    await using machine = await openMachine();
    const rows: Row[] = [];
    for (const kind of KINDS) {
      const ofKind: Row[] = [];
      for (const ek of EKS) {
        if (!wanted.has(kind) && !wanted.has(`${kind}-${ek}`)) continue;
        const compared = await compareTimes(machine.ways(kind, ek), iterations);
        ofKind.push(timeRow({ id: `${kind}-${ek}`, what: `${WHAT[kind]} (${ek} EK)`, target: TARGET }, compared));
      }
      const [worst] = ofKind.toSorted((a, b) => b.ratio - a.ratio);
      if (worst !== undefined && wanted.has(kind)) rows.push({ ...worst, id: kind, what: WHAT[kind] });
      rows.push(...ofKind);
    }
    return rows;
  },
};

interface Bench {
  readonly tpm: SoftwareTpm;
  readonly keys: SealKeys;
  readonly release: Release;
  readonly sealed: Readonly<Record<(typeof EKS)[number], Imported>>;
  readonly bare: string;
  readonly pipe: Pipe;
}

async function openMachine() {
  const directory = await mkdtemp(join(tmpdir(), "ironclaw-bench-"));
  const bare = compileBare(directory);
  const tpm = await startSwtpm();
  const keys = await createSealKeys();
  await defineEpoch(tpm, keys);
  const release = await makeRelease(keys);
  const sealed = { p384: await openSealed(tpm, "p384", keys), rsa: await openSealed(tpm, "rsa", keys) };
  await bootInto(tpm);
  const [pipe] = await openPipes(1);
  if (pipe === undefined) throw new Error("a pipe");
  const bench: Bench = { tpm, keys, release, sealed, bare, pipe };
  return {
    ways: (kind: Kind, ek: (typeof EKS)[number]) => ({
      ours: () => unsealOurs(bench, kind, ek),
      peer: peerOf(bench, kind, ek),
    }),
    [Symbol.asyncDispose]: async () => {
      for (const fd of [pipe.readEnd, pipe.writeEnd]) closeSync(fd);
      await tpm.stop();
      await rm(directory, { recursive: true });
    },
  };
}

/** With the optimisation that our own parts are built with. */
function compileBare(directory: string): string {
  const output = join(directory, "bare-unseal");
  const sources = ["test/bench/native/bare-unseal.c", "seal/unsealer/request.c"].map((file) => join(root, file));
  const libraries = ["tss2-esys", "tss2-mu", "tss2-tctildr", "crypto"].map((name) => `-l${name}`);
  const flags = ["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-D_GNU_SOURCE", `-I${join(root, "seal/unsealer")}`];
  execFileSync("gcc", [...flags, "-o", output, ...sources, ...libraries]);
  return output;
}

/** As a launch does it: the request is made anew, and the blob imported if that is asked for. */
async function unsealOurs(bench: Bench, kind: Kind, ek: (typeof EKS)[number]): Promise<void> {
  const { sealed, imported } = bench.sealed[ek];
  const { release, keys, tpm } = bench;
  const loadable = kind === "unseal" ? imported : await importInto(tpm, sealed);
  await runInto(bench, UNSEALER, unsealRequest({ sealed, imported: loadable, release, anchors: keys.anchors }));
}

/** The peer's input is made once, beforehand: making it is no part of the commands. */
function peerOf(bench: Bench, kind: Kind, ek: (typeof EKS)[number]): () => Promise<void> {
  const { sealed, imported } = bench.sealed[ek];
  const [first, second] = ekProfiles[ek === "rsa" ? "rsa2048" : "p384"].alternatives;
  const nothing = new Uint8Array();
  const input = new ByteWriter()
    .sized16(first ?? nothing)
    .sized16(second ?? nothing)
    .sized16(kind === "unseal" ? nothing : sealed.duplicate)
    .sized16(kind === "unseal" ? nothing : sealed.encryptedSeed)
    .bytes(unsealRequest({ sealed, imported, release: bench.release, anchors: bench.keys.anchors }))
    .finish();
  return () => runInto(bench, bench.bare, input);
}

/** Both programs are started and heard by the same function, and write into the same pipe. */
async function runInto({ tpm, pipe }: Bench, path: string, request: Uint8Array): Promise<void> {
  const answer = await runUnsealer({ path, tcti: tpm.tcti, request, sinks: [pipe.writeEnd] });
  if (answer.kind !== "released") throw new Error(`${path}: ${JSON.stringify(answer)}`);
  if (!equalBytes(drain(pipe.readEnd), delivered())) throw new Error(`${path}: another PIN`);
}
