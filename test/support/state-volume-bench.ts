import { mkdtempSync, readFileSync, readSync, rmSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, expect } from "vitest";
import { MachineAudit } from "../../agent/audit/machine-audit.ts";
import type { AuditEntry } from "../../agent/audit/record.ts";
import { Refusal } from "../../agent/launch/environment.ts";
import type { Spawner } from "../../agent/spawner-client.ts";
import { createStateVolume } from "../../agent/state-volume.ts";
import { type MachineTpm, openTpm, provisionRecords, readAnchor, writeAnchor } from "../../seal/index.ts";
import { NATIVE_DIRECTORY, native } from "../support/shim-fixture.ts";
import { type SoftwareTpm, startSwtpm } from "../support/swtpm.ts";

export const VOLUME = Uint8Array.from({ length: 16 }, (_, index) => 0xa0 + index);
export const OTHER_VOLUME = new Uint8Array(16).fill(7);
/** u16 length, then 64 and 32 bytes, as the unsealer writes it. */
export const KEY = Uint8Array.from({ length: 98 }, (_, index) =>
  index === 0 ? 0 : index === 1 ? 96 : (index * 11) & 0xff,
);
export const ENTRY: AuditEntry = {
  ...{ caller: null, scope: "release-signing", key: null, mechanism: null, operation: "connect" },
  ...{ inputDigest: null, decision: "deny", step: "caller", reason: "unknown", approvals: [] },
};

interface Asked {
  readonly format: boolean;
  /** All that came out of the pipe, up to its end. */
  readonly key: Uint8Array;
}

interface Opening {
  readonly volumeId?: Uint8Array;
  readonly openState?: Spawner["openState"];
  readonly deliver?: (sink: number) => Promise<void>;
}

/** A machine with a TPM of its own, whose volume is a directory: new for each test. */
export class VolumeBench {
  readonly #machine: SoftwareTpm;
  #tpm: MachineTpm;
  #directory = "";
  readonly audits: MachineAudit[] = [];

  private constructor(machine: SoftwareTpm, tpm: MachineTpm) {
    [this.#machine, this.#tpm] = [machine, tpm];
  }

  static async start(): Promise<VolumeBench> {
    const machine = await startSwtpm({ endorsement: "none" });
    const tpm = await connect(machine);
    await provisionRecords(tpm.tss);
    return new VolumeBench(machine, tpm);
  }

  get tss(): MachineTpm["tss"] {
    return this.#tpm.tss;
  }
  get directory(): string {
    return this.#directory;
  }
  get auditLog(): string {
    return join(this.#directory, "audit");
  }
  /** The log's first. */
  get segment(): string {
    return join(this.auditLog, "0000000000000001.log");
  }

  async beginTest(): Promise<void> {
    this.#directory = mkdtempSync(join(tmpdir(), "ironclaw-volume-"));
    await writeAnchor(this.tss, null);
  }

  endTest(): void {
    for (const audit of this.audits.splice(0)) audit.close();
    rmSync(this.#directory, { recursive: true, force: true });
  }

  async stop(): Promise<void> {
    await this.#tpm.close();
    await this.#machine.stop();
  }

  /** A boot of the machine: its TPM is reset, and counts that. */
  async #powerCycle(): Promise<void> {
    await this.#tpm.close();
    await this.#machine.restart();
    this.#tpm = await connect(this.#machine);
  }

  /** One opening, in a boot of its own, with a spawner that takes the key and says which volume it is. */
  async open({ volumeId = VOLUME, openState, deliver }: Opening = {}) {
    await this.#powerCycle();
    const audit = new MachineAudit();
    this.audits.push(audit);
    const asked: Asked[] = [];
    const fake: Spawner["openState"] = async ({ format }, keyFd) => {
      asked.push({ format, key: readToEnd(keyFd) });
      return { formatted: format, volumeId, bytes: 1n << 27n };
    };
    const volume = createStateVolume({
      ...{ tss: this.tss, native: native(), auditLog: this.auditLog, audit },
      now: () => Date.parse("2027-01-01T00:00:00Z"),
      spawner: { openState: openState ?? fake },
    });
    const failure = await volume.open(deliver ?? (async (sink) => void writeSync(sink, KEY))).then(
      () => null,
      (error: unknown) => error,
    );
    return { audit, asked, failure };
  }

  /** The TPM's. */
  async anchor() {
    const state = await readAnchor(this.tss);
    return state.kind === "anchor" ? state.anchor : state.kind;
  }

  /** A machine whose volume has a log of so many records, anchored at its end. */
  async anchoredLog(records: number): Promise<readonly string[]> {
    const { audit, failure } = await this.open();
    expect(failure).toBeNull();
    await append(audit, records);
    await writeAnchor(this.tss, { volumeId: VOLUME, ...audit.head() });
    audit.close();
    return readFileSync(this.segment, "utf8").trimEnd().split("\n");
  }
}

/** Call it once in a file, outside of every test. What it gives is there from `beforeAll` on. */
export function openVolumeBench(): () => VolumeBench {
  let bench: VolumeBench;
  beforeAll(async () => {
    bench = await VolumeBench.start();
  });
  afterAll(() => bench?.stop());
  beforeEach(() => bench.beginTest());
  afterEach(() => bench.endTest());
  return () => bench;
}

const connect = (machine: SoftwareTpm) => openTpm({ tcti: machine.tcti, nativeDirectory: NATIVE_DIRECTORY });

/** Records of which the last, and with it all, is on the disk. */
export async function append(audit: MachineAudit, records: number): Promise<void> {
  for (let record = 1; record < records; record++) await audit.append(ENTRY, "written");
  await audit.append(ENTRY, "durable");
}

export function readToEnd(fd: number): Uint8Array {
  const parts: Buffer[] = [];
  for (;;) {
    const buffer = Buffer.alloc(4096);
    const length = readSync(fd, buffer); // blocks for ever while a writing end is left open
    if (length === 0) return Uint8Array.from(Buffer.concat(parts));
    parts.push(buffer.subarray(0, length));
  }
}

export const reasonsOf = (failure: unknown) => (failure instanceof Refusal ? failure.reasons : failure);
