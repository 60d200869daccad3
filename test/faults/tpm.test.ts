import { inspect } from "node:util";
import { TpmError, TpmFormatError } from "node-tpm2-tss";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { AttestError } from "../../attest/index.ts";
import { IronclawError, toBase64, toHex } from "../../policy/index.ts";
import { type MachineTpm, openTpm, provisionEpoch, provisionRecords, SealError } from "../../seal/index.ts";
import {
  boot,
  createBenchKeys,
  loadedHandles,
  makeRelease,
  NATIVE_DIRECTORY,
  sealFor,
  snapshot,
  withTss,
} from "../support/sealing-bench.ts";
import { type SoftwareTpm, startSwtpm } from "../support/swtpm.ts";
import { type BusCommand, openTpmBus, type TpmBus } from "../support/tpm-bus.ts";
import { casesOf, endsInTime } from "./extent.ts";
import { TPM_FAULTS, type TpmFault } from "./tpm-answers.ts";
import { OPERATIONS, SECRETS, type TpmOperation, type TpmScene } from "./tpm-operations.ts";

let machine: SoftwareTpm;
let bus: TpmBus;
let scene: TpmScene;
let states: Readonly<Record<TpmOperation["from"], Awaited<ReturnType<typeof snapshot>>>>;

beforeAll(async () => {
  machine = await startSwtpm();
  const keys = await createBenchKeys();
  const release = await makeRelease(keys, { epoch: 2, raise: true });
  const sealed = await withTss(machine, (tss) => sealFor(tss, keys));
  scene = { keys, release, sealed };
  const maker = await snapshot(machine);
  await withTss(machine, async (tss) => {
    await provisionEpoch(tss, keys.anchors.releaseRoot, release.delegation);
    await provisionRecords(tss);
  });
  states = { maker, machine: await snapshot(machine) };
  bus = await openTpmBus(machine);
});
afterAll(async () => {
  await bus?.[Symbol.asyncDispose]();
  for (const state of Object.values(states ?? {})) await state.discard();
  await machine?.stop();
});

async function putBack(operation: TpmOperation): Promise<void> {
  bus.arm();
  await states[operation.from].restore();
  if (operation.from === "machine") await boot(machine);
}

const open = () => openTpm({ tcti: bus.tcti("agent"), nativeDirectory: NATIVE_DIRECTORY });

async function failureOf(act: Promise<void>): Promise<unknown> {
  return act.then(
    () => null,
    (error: unknown) => error,
  );
}

/** The TPM's or the library's own answer, with a type. */
const isTyped = (error: unknown) =>
  [AttestError, SealError, IronclawError, TpmError, TpmFormatError].some((kind) => error instanceof kind);

function shown(error: unknown): readonly string[] {
  const text = inspect(error, { depth: 12, maxArrayLength: null, showHidden: true });
  return SECRETS.filter((secret) => [toHex(secret), toBase64(secret)].some((form) => text.includes(form))).map(toHex);
}

/** Handles that stay: of a command that was to make one and whose answer was lost, or of the flush itself. Those are the resource manager's. */
const MAKERS: ReadonlySet<number> = new Set([0x131, 0x157, 0x161, 0x165, 0x167, 0x176]);

/** One run under one fault: what is wrong with it. */
async function brokenLaws(operation: TpmOperation, at: BusCommand, fault: TpmFault): Promise<readonly string[]> {
  if (operation.changes) await putBack(operation);
  bus.arm(({ index }) => (index === at.index ? fault : null));
  const found: string[] = [];
  const tpm = await open();
  const error = await failureOf(operation.act(tpm, scene));
  bus.arm();
  if (error !== null && !isTyped(error)) found.push(`no typed error: ${inspect(error)}`);
  if (fault.kind === "again" && error !== null) found.push(`not sent again: ${error}`);
  for (const secret of shown(error)) found.push(`shows ${secret}`);
  // A refusal leaves the connection as it was; whoever waits for an operator goes on with it.
  if (fault.kind !== "broken" && !operation.changes) found.push(...(await tryAgain(operation, tpm, "here")));
  await tpm.close();
  const left = bus.held("agent").length;
  const own = MAKERS.has(at.code) ? 1 : 0;
  if (fault.kind !== "broken" && left > own) found.push(`${left} handles stay`);
  await bus.flushClient("agent");
  found.push(...(await afterwards(operation)));
  return found.map((what) => `${nameOf(at, fault)}: ${what}`);
}

const nameOf = ({ index, code }: BusCommand, { name }: TpmFault) => `${index} 0x${code.toString(16)} ${name}`;

/** All of them; of an operation that does the same over and over its beginning and its end. */
function placesOf(commands: readonly BusCommand[]): readonly BusCommand[] {
  const [first, last] = [40, 20];
  return commands.length <= first + last ? commands : [...commands.slice(0, first), ...commands.slice(-last)];
}

async function tryAgain(operation: TpmOperation, tpm: MachineTpm, where: string): Promise<readonly string[]> {
  const error = await failureOf(operation.act(tpm, scene));
  return error === null ? [] : [`a clean try ${where}: ${error}`];
}

async function afterwards(operation: TpmOperation): Promise<readonly string[]> {
  const found: string[] = [];
  const whole = await failureOf(withTss({ tcti: bus.tcti("other") }, async (tss) => operation.whole?.(tss)));
  if (whole !== null) found.push(`half: ${whole}`);
  const tpm = await open();
  found.push(...(await tryAgain(operation, tpm, "on a new connection")));
  await tpm.close();
  const handles = await withTss({ tcti: bus.tcti("other") }, loadedHandles);
  return handles.length === 0 ? found : [...found, `the TPM holds ${handles.length} handles`];
}

describe.each(Object.entries<TpmOperation>(OPERATIONS))("%s", (_, operation) => {
  test("I4 I11: whatever one TPM command is answered, it ends typed and at once, leaves nothing behind, and can be done again", async () => {
    await putBack(operation);
    bus.arm();
    await using tpm = await open();
    await operation.act(tpm, scene);
    const commands = placesOf(bus.commands);
    const cases = commands.flatMap((command) => TPM_FAULTS.map((fault) => ({ command, fault })));
    const found: string[] = [];
    for (const { command, fault } of casesOf(cases, operation.changes ? 5 : 14))
      found.push(...(await endsInTime(nameOf(command, fault), brokenLaws(operation, command, fault))));
    expect(found).toEqual([]);
  });
});
