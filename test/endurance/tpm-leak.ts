// Quotes and unseals many times over on a software TPM, and prints as JSON what memory and TPM are like afterwards.
// node test/endurance/tpm-leak.ts [QUOTES [UNSEALS]]: exit code 1 when a handle or session is lost, or memory grew.
import { open, rm } from "node:fs/promises";
import { join } from "node:path";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { HANDLE_RANGE, Tpm, TpmError, type TpmObject } from "node-tpm2-tss";
import { fromHex } from "../../policy/index.ts";
import { attestationKeyTemplate } from "../../seal/tpm-templates.ts";
import { startSwtpm } from "../support/swtpm.ts";

export interface LeakFigures {
  readonly quotes: number;
  readonly unseals: number;
  /** Unseals among these that the TPM refused, as they were made to be. */
  readonly refusals: number;
  readonly seconds: number;
  /** Resident MiB after a collection: at the start, ten times on the way, at the end. */
  readonly rssMiB: readonly number[];
  readonly heapMiB: readonly number[];
  /** From the first sample after the warm-up to the last. */
  readonly rssGrowthMiB: number;
  /** Transient objects, loaded and saved sessions in the TPM. */
  readonly handlesBefore: number;
  readonly handlesAfter: number;
}

const nativeDirectory = join(import.meta.dirname, "..", "..", "build", "native");
const RSS_LIMIT_MIB = 16;
const SAMPLES = 10;
const REFUSE_EVERY = 10;
// P-256 storage key, and a sealed object whose authValue is not counted for the dictionary-attack lockout.
const storageTemplate = fromHex("0023000b0003007200000006008000430010000300100000" + "0000");
const sealedTemplate = fromHex("0008000b000004520000" + "0010" + "0000");
const secret = new Uint8Array(64).fill(0x5a);
const auth = new Uint8Array(20).fill(1);

export async function measureLeaks(quotes: number, unseals: number): Promise<LeakFigures> {
  await using swtpm = await startSwtpm({ endorsement: "none" });
  await using tpm = await Tpm.open({ tcti: swtpm.tcti, nativeDirectory });
  const handlesBefore = await countHandles(tpm);
  const started = performance.now();
  const samples = [memory()];
  let refusals = 0;
  {
    await using key = await tpm.createPrimary("endorsement", attestationKeyTemplate);
    await repeat(quotes, samples, () => quoteOnce(tpm, key));
  }
  {
    await using parent = await tpm.createPrimary("owner", storageTemplate);
    const sealed = await tpm.create(parent, sealedTemplate, { sensitive: { auth, data: secret } });
    const sink = await open(join(swtpm.directory, "sink"), "w");
    await repeat(unseals, samples, async (turn) => {
      const isRefused = turn % REFUSE_EVERY === 0;
      await using object = await tpm.load(parent, sealed.privateArea, sealed.publicArea);
      await tpm.setAuth(object, isRefused ? secret.subarray(0, 20) : auth);
      refusals += (await unsealOnce(tpm, parent, object, turn % 2 === 0 ? sink.fd : null)) ? 0 : 1;
    });
    await sink.close();
    await rm(join(swtpm.directory, "sink"));
  }
  return {
    quotes,
    unseals,
    refusals,
    seconds: Math.round((performance.now() - started) / 1000),
    rssMiB: samples.map(({ rss }) => rss),
    heapMiB: samples.map(({ heap }) => heap),
    rssGrowthMiB: round((samples.at(-1)?.rss ?? 0) - (samples[1]?.rss ?? 0)),
    handlesBefore,
    handlesAfter: await countHandles(tpm),
  };
}

/** Whether the figures are those of a binding that keeps nothing. */
export function isClean({ unseals, refusals, rssGrowthMiB, handlesBefore, handlesAfter }: LeakFigures): boolean {
  return (
    handlesAfter === handlesBefore && rssGrowthMiB <= RSS_LIMIT_MIB && refusals === Math.ceil(unseals / REFUSE_EVERY)
  );
}

async function quoteOnce(tpm: Tpm, key: TpmObject): Promise<void> {
  const { signature } = await tpm.quote(key, secret.subarray(0, 32), [{ bank: "sha256", pcrs: [0, 7, 13] }]);
  if (signature.length === 0) throw new Error("quote: no signature");
}

/** In a salted session that encrypts the response; to a file descriptor unless it is null. False when the TPM refused. */
async function unsealOnce(tpm: Tpm, parent: TpmObject, object: TpmObject, fd: number | null): Promise<boolean> {
  await using session = await tpm.startAuthSession({ kind: "hmac", saltKey: parent, encrypt: true });
  const sessions = [session];
  try {
    const size =
      fd === null ? (await tpm.unseal(object, { sessions })).length : await tpm.unsealToFd(object, fd, { sessions });
    if (size !== secret.length) throw new Error(`unseal: expected ${secret.length} bytes, got ${size}`);
    return true;
  } catch (cause) {
    if (cause instanceof TpmError && cause.layer === "tpm") return false;
    throw cause;
  }
}

async function repeat(
  times: number,
  samples: { rss: number; heap: number }[],
  act: (turn: number) => Promise<void>,
): Promise<void> {
  const every = Math.max(1, Math.floor(times / SAMPLES));
  for (let turn = 0; turn < times; turn++) {
    await act(turn);
    if ((turn + 1) % every === 0) samples.push(memory());
  }
}

async function countHandles(tpm: Tpm): Promise<number> {
  const ranges = [HANDLE_RANGE.transient, HANDLE_RANGE.loadedSession, HANDLE_RANGE.savedSession];
  let total = 0;
  for (const range of ranges) total += (await tpm.handles(range)).length;
  return total;
}

function memory(): { rss: number; heap: number } {
  setFlagsFromString("--expose-gc");
  (runInNewContext("gc") as () => void)(); // what the flag adds
  const { rss, heapUsed } = process.memoryUsage();
  return { rss: round(rss / 2 ** 20), heap: round(heapUsed / 2 ** 20) };
}

const round = (value: number) => Math.round(value * 10) / 10;

if (import.meta.main) {
  const [quotes = 100_000, unseals = 10_000] = process.argv.slice(2).map(Number);
  const figures = await measureLeaks(quotes, unseals);
  console.log(JSON.stringify(figures, null, 2));
  process.exitCode = isClean(figures) ? 0 : 1;
}
