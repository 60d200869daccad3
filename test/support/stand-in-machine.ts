import { mkdir } from "node:fs/promises";
import { createServer, type Server, type Socket } from "node:net";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { NO_REQUESTS } from "../../agent/approvals/index.ts";
import { LivePolicy } from "../../agent/broker/index.ts";
import { parseConfig } from "../../agent/config.ts";
import { answerControlLine, type ControlService } from "../../agent/control/control.ts";
import { createSealingService } from "../../agent/control/sealing.ts";
import { createSessions } from "../../agent/control/sessions.ts";
import { examine, tpmFindings } from "../../agent/doctor/index.ts";
import { expectedLaunchEvents } from "../../agent/launch/expected-events.ts";
import { type LaunchInputs, readInputs } from "../../agent/launch/inputs.ts";
import { frameReport } from "../../agent/report.ts";
import { Restrictions } from "../../agent/restrictions/index.ts";
import { createTurns } from "../../agent/turns.ts";
import {
  bankAlgorithm,
  celRecord,
  collectEvidence,
  encodeEvidence,
  type LaunchEvent,
  launchEvent,
  launchEventDigests,
  machineUeid,
  measurePe,
  type PcrBank,
  parseFirmwareLog,
  parsePe,
  readPeSection,
} from "../../attest/index.ts";
import { AGENT_PCR, type Cabinet, concatBytes, parsePolicy, sha256, utf8 } from "../../policy/index.ts";
import { type MachineTpm, memoryMedium, openTpm, provisionEpoch, provisionRecords, Store } from "../../seal/index.ts";
import { makeClaims, servingEvents } from "./evidence-maker.ts";
import { logEvent, logHeader, separatorType, u16le, u32le } from "./firmware-log-writer.ts";
import type { SoftwareTpm } from "./swtpm.ts";

export interface StandInOrder {
  readonly tpm: SoftwareTpm;
  /** Gets the two port sockets, as a machine's directory has them. */
  readonly directory: string;
  readonly uki: Uint8Array;
  readonly config: Uint8Array;
  readonly shim: Uint8Array;
  readonly image: { readonly id: string; readonly variant: "demo" };
  readonly cabinet: Cabinet;
}

/**
 * A machine without a machine: what firmware, stub, kernel and agent would measure goes into a real (software) TPM, and
 * the real control protocol answers with real quotes. Only the claims about the shim are made up.
 */
export async function startStandIn(order: StandInOrder): Promise<AsyncDisposable> {
  const tpm = await openTpm({ tcti: order.tpm.tcti });
  const firmwareLog = bootLog(order.uki);
  for (const event of parseFirmwareLog(firmwareLog).events) {
    const digest = (bank: PcrBank) => event.digests.get(bankAlgorithm(bank));
    const [sha256, sha384] = [digest("sha256"), digest("sha384")];
    if (sha256 !== undefined && sha384 !== undefined) await tpm.pcrExtend(event.pcr, { sha256, sha384 });
  }
  const events = [...launchEvents(order), ...servingEvents().slice(-3)];
  for (const event of events) await tpm.pcrExtend(AGENT_PCR, launchEventDigests(event));

  const ak = await tpm.createAttestationKey();
  const ekCertificates = (await tpm.ekCertificates()).map(({ der }) => der);
  const { name: ekName } = await tpm.endorsementKey("p384");
  const records = events.map((event, index) => celRecord(index, AGENT_PCR, event));
  const asserted = { machine: "vm-1", image: order.image };
  const claims = makeClaims({ events, launch: "serving", asserted, claims: { ueid: machineUeid(ekName) } });
  const sources = {
    ekCertificates,
    firmwareLog,
    locked: <T>(act: (log: typeof records) => Promise<T>) => act(records),
    claims: (nonce: Uint8Array) => ({ ...claims, nonce }),
  };
  const store = Store.open(memoryMedium()).store;
  const inputs = await readInputs(order.cabinet, store.content);
  await provision(tpm, inputs.partial);
  const turns = createTurns();
  const sealing = createSealingService(
    { tss: tpm.tss, store, now: Date.now, inputs },
    {
      identity: () => ({ tpm, ak, ekKind: "p384", ekName }),
      record: { state: { kind: "serving", scopes: [] } },
      ...{ storeKeeps: true, turns },
    },
  );
  const restrictions = new Restrictions({
    ...{ tss: tpm.tss, turns, policy: () => inputs.partial.policy, release: () => inputs.partial.releases?.[0] },
    ...{
      log: { measure: async () => undefined },
      audit: { append: () => Promise.reject(new Error("no audit log")) },
      unrecorded: () => undefined,
    },
  });
  if (inputs.partial.policy !== undefined) await restrictions.begin(new LivePolicy(inputs.partial.policy));
  let report: Socket | null = null;
  const service: ControlService = {
    sealing,
    approvals: () => NO_REQUESTS,
    restrictions,
    status: async () => ({ state: "serving", reasons: [] }),
    metrics: async () => "ironclaw_serving 1\n",
    endorsement: async () => ({ ekCertificates, ekProfile: "H-3", akPublic: ak.publicArea, akName: ak.name }),
    activate: (blob, secret) => tpm.activateCredential(ak, blob, secret),
    challenge: async (challenge) => {
      const evidence = encodeEvidence(await collectEvidence(tpm, ak, sources, challenge));
      report?.write(frameReport(evidence));
      return evidence.length;
    },
    audit: async () => ({ records: [], first: 1, head: { seq: 0, hash: "0".repeat(64) } }),
    sessions: createSessions({
      serving: () => null,
      audit: { append: () => Promise.reject(new Error("no audit log")) },
    }),
    doctor: () => examine([{ id: "tpm", run: () => tpmFindings(tpm, new Date()) }]),
  };
  await mkdir(order.directory, { recursive: true });
  const servers = [
    await listen(join(order.directory, "ironclaw.report.sock"), (socket) => {
      report = socket;
    }),
    await listen(join(order.directory, "ironclaw.control.sock"), (socket) => {
      createInterface({ input: socket }).on("line", async (line) => {
        const answer = await answerControlLine(service, line);
        socket.write(`${answer}\n`);
      });
    }),
  ];
  return {
    [Symbol.asyncDispose]: async () => {
      for (const server of servers) server.close();
      await ak[Symbol.asyncDispose]();
      await tpm.close();
    },
  };
}

/** The epoch counter and the records, as the first launch makes them. */
async function provision({ tss }: MachineTpm, { anchors, releases }: Partial<LaunchInputs>): Promise<void> {
  const [release] = releases ?? [];
  if (anchors === undefined || release === undefined) throw new Error("cabinet: no anchors or no release");
  await provisionEpoch(tss, anchors.releaseRoot, release.delegation);
  await provisionRecords(tss);
}

/** What the agent measures of these documents, when every file is as the policy pins it. */
function launchEvents({ cabinet, config, shim }: StandInOrder): readonly LaunchEvent[] {
  const slot = (name: "anchors" | "policy") => {
    const found = cabinet.slot(name);
    if (found === null) throw new Error(`cabinet: no ${name}`);
    return found.bytes;
  };
  const policyBytes = slot("policy");
  const documents = {
    config: parseConfig(config),
    configBytes: config,
    anchorsBytes: slot("anchors"),
    policy: parsePolicy(policyBytes),
    policyBytes,
  };
  return expectedLaunchEvents(documents, sha256(shim)).map(({ kind, name, sha256: digest }) =>
    launchEvent(kind, name, digest),
  );
}

/** The firmware's log of a boot of this kernel image: OVMF, systemd's stub and the kernel's EFI stub. */
export function bootLog(uki: Uint8Array): Uint8Array {
  const image = parsePe(uki);
  const section = (name: string) => {
    const content = readPeSection(image, name);
    if (content === null) throw new Error(`kernel image: no ${name}`);
    return content;
  };
  const kernel = parsePe(section(".linux"));
  const commandLine = new TextDecoder().decode(section(".cmdline"));
  return concatBytes(
    logHeader(),
    logEvent(4, 0x80000007, utf8("Calling EFI Application from Boot Option")),
    ...[0, 1, 2, 3, 4, 5, 6, 7].map((pcr) => logEvent(pcr, separatorType, new Uint8Array(4))),
    ...[image, kernel].map((pe) => digestEvent(4, 0x80000003, (bank) => measurePe(pe, bank))),
    ...[".linux", ".osrel", ".cmdline", ".initrd"].flatMap((name) => [
      logEvent(11, 0xd, utf8(`${name}\0`)),
      logEvent(11, 0xd, section(name)),
    ]),
    logEvent(9, 6, new Uint8Array(Buffer.from(`${commandLine}\0`, "utf16le"))),
    logEvent(9, 6, section(".initrd")),
  );
}

/** An event whose digest is not that of its data, as for PE images. */
function digestEvent(pcr: number, type: number, digest: (bank: PcrBank) => Uint8Array): Uint8Array {
  const digests = [u16le(0x000b), digest("sha256"), u16le(0x000c), digest("sha384")];
  return concatBytes(u32le(pcr), u32le(type), u32le(2), ...digests, u32le(0));
}

function listen(path: string, serve: (socket: Socket) => void): Promise<Server> {
  return new Promise((resolve, reject) => {
    const server = createServer((socket) => serve(socket.on("error", () => socket.destroy())));
    server.once("error", reject).listen(path, () => resolve(server));
  });
}
