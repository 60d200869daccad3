import { readFileSync } from "node:fs";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { CHECKPOINT_PURPOSE, CheckpointTrust, checkpointEntry } from "../../../agent/audit/checkpoint.ts";
import { AuditKeeper } from "../../../agent/audit/keeper.ts";
import type { FileAuditLog } from "../../../agent/audit/log.ts";
import type { AuditHead, AuditRecord } from "../../../agent/audit/record.ts";
import { readAudit, verifyAudit } from "../../../agent/audit/verify.ts";
import type { AttestationKey } from "../../../attest/index.ts";
import { type CertifiedKey, type MachineTpm, openTpm } from "../../../seal/index.ts";
import { AuditBench, ENTRY, SMALL, START } from "../../support/audit-fixture.ts";
import { NATIVE_DIRECTORY } from "../../support/shim-fixture.ts";
import { type SoftwareTpm, startSwtpm } from "../../support/swtpm.ts";

let machine: SoftwareTpm;
let tpm: MachineTpm;
let ak: AttestationKey;
let key: CertifiedKey;
let bench: AuditBench;

beforeAll(async () => {
  machine = await startSwtpm({ endorsement: "none" });
  tpm = await openTpm({ tcti: machine.tcti, nativeDirectory: NATIVE_DIRECTORY });
  ak = await tpm.createAttestationKey();
  key = await tpm.certifiedKey(ak, CHECKPOINT_PURPOSE);
});
afterAll(async () => {
  await tpm?.close();
  await machine?.stop();
});
beforeEach(() => {
  bench = new AuditBench();
});
afterEach(() => bench.remove());

async function append(log: FileAuditLog, records: number): Promise<void> {
  for (let index = 0; index < records; index += 1) await log.append({ ...ENTRY, reason: `rule ${index}` }, "written");
}
function keeperOf(log: FileAuditLog, signer: CertifiedKey | null = key, anchors: AuditHead[] = []): AuditKeeper {
  return new AuditKeeper({ log, anchor: async (head) => void anchors.push(head), key: () => signer });
}
const records = () => readAudit(bench.directory, 1, 10_000);
async function findings(all: readonly AuditRecord[], akPublic: Uint8Array | null = ak.publicArea) {
  const trust = new CheckpointTrust(akPublic);
  for (const record of all) await trust.add(record, "");
  return trust.findings;
}

describe("checkpoints", () => {
  it("I8: sign what is on the disk, with a key that the attestation key certified, and are anchored themselves", async () => {
    const log = bench.open();
    const anchors: AuditHead[] = [];
    const keeper = keeperOf(log, key, anchors);
    await append(log, 5);
    await keeper.settle();
    await keeper.settle(); // nothing new: nothing is written
    expect(log.head().seq).toBe(7);
    expect(anchors).toEqual([log.head()]);
    await append(log, 1);
    await keeper.settle();
    log.close();
    expect(records().map(({ operation }) => operation)).toEqual([
      ...["sign", "sign", "sign", "sign", "sign", "certificate", "checkpoint", "sign", "checkpoint"],
    ]);
    expect(await findings(records())).toEqual({ count: 2, covers: 8, certified: true });
    expect(await findings(records(), null)).toEqual({ count: 2, covers: 8, certified: null });
  });

  it("I8: a log that was written anew has none that verify: another key, another purpose, another machine's", async () => {
    await using other = await startSwtpm({ endorsement: "none" });
    const stranger = await openTpm({ tcti: other.tcti, nativeDirectory: NATIVE_DIRECTORY });
    try {
      const strange = await stranger.certifiedKey(await stranger.createAttestationKey(), CHECKPOINT_PURPOSE);
      const purpose = await tpm.certifiedKey(ak, new Uint8Array(32));
      for (const signer of [strange, purpose]) {
        bench.remove();
        bench = new AuditBench();
        const log = bench.open();
        await append(log, 1);
        await keeperOf(log, signer).settle();
        log.close();
        await expect(findings(records())).rejects.toMatchObject({ code: "ERR_AUDIT_MALFORMED" });
      }
    } finally {
      await stranger.close();
    }
  });

  it("I8: one that does not fit its log is found: of a record that is not there, of another hash, without a certificate, signed by another", async () => {
    const log = bench.open();
    await append(log, 2);
    await keeperOf(log).settle();
    log.close();
    const all = records();
    const checkpoint = all.find(({ operation }) => operation === "checkpoint");
    const last = all.at(-1);
    if (checkpoint?.statement?.kind !== "checkpoint" || last === undefined) throw new Error("a checkpoint");
    const head = { seq: 2, hash: checkpoint.statement.hash };
    const others = [
      await checkpointEntry(key, { ...head, seq: 700 }),
      await checkpointEntry(key, { ...head, hash: "ab".repeat(32) }),
      { ...checkpoint, statement: { ...checkpoint.statement, key: `000b${"00".repeat(32)}` } },
      { ...checkpoint, statement: { ...checkpoint.statement, hash: "ab".repeat(32) } },
    ];
    for (const { statement } of others) {
      const changed = all.map((record) => (record === checkpoint ? { ...record, statement: statement ?? null } : record));
      await expect(findings(changed)).rejects.toMatchObject({ code: "ERR_AUDIT_MALFORMED" });
    }
  });
});

describe("retention", () => {
  const old = { limits: { ...SMALL, segments: 2 }, now: () => START };

  it("I8: deletes the oldest segments only, behind a checkpoint that stays, and says from which record on the log is", async () => {
    let now = START;
    const log = bench.open({ ...old, now: () => now });
    const anchors: AuditHead[] = [];
    const keeper = keeperOf(log, key, anchors);
    await append(log, 9);
    now += 1_000;
    await append(log, 1);
    await keeper.settle();
    const { length } = bench.segments();
    expect(length).toBeLessThanOrEqual(4);
    const { first } = verifyAudit(bench.directory, new Map());
    expect(first).toBeGreaterThan(1);
    expect(bench.lines()[0]).toContain('"operation":"rotate"');
    expect(records().find(({ operation }) => operation === "retention")?.statement).toEqual({ kind: "retention", first });
    expect((await findings(records())).covers).toBeGreaterThan(first);
    expect(anchors.at(-1)).toEqual(log.durableHead());
    log.close();
    bench.open({ ...old, anchor: anchors.at(-1) ?? null }).close();
  });

  it("I8: nothing is deleted without a key to sign with, and nothing that is young", async () => {
    for (const [signer, milliseconds] of [
      [null, 0],
      [key, 60_000],
    ] as const) {
      bench.remove();
      bench = new AuditBench();
      let now = START;
      const log = bench.open({ limits: { ...SMALL, segments: 2, milliseconds }, now: () => now });
      await append(log, 12);
      now += 30_000;
      await append(log, 1);
      await keeperOf(log, signer).settle();
      log.close();
      expect(verifyAudit(bench.directory, new Map()).first).toBe(1);
    }
  });

  it("I8, I11: killed between any two deletions, the log verifies, and the rest goes the next time", async () => {
    for (const survivors of [0, 1, 2]) {
      bench.remove();
      bench = new AuditBench();
      let now = START;
      let left = survivors;
      const remove = (path: string) => {
        if (left-- <= 0) throw new Error(`killed before ${path}`);
        readFileSync(path);
        bench.delete(path);
      };
      const log = bench.open({ ...old, now: () => now, files: { remove } });
      await append(log, 12);
      now += 1_000;
      await append(log, 1);
      const before = bench.segments().length;
      await keeperOf(log).settle();
      const head = log.head();
      log.close();
      expect(bench.segments().length).toBeGreaterThanOrEqual(before - survivors);
      const again = bench.open({ ...old, now: () => now + 1_000, anchor: head });
      await append(again, 1);
      await keeperOf(again).settle();
      again.close();
      expect(verifyAudit(bench.directory, new Map()).first).toBeGreaterThan(1);
    }
  });
});
