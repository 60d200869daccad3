import assert from "node:assert/strict";
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { openAudit } from "../../agent/audit/open.ts";
import { writeDirectory } from "../../agent/cli/directories.ts";
import { writeOutput } from "../../agent/cli/files.ts";
import { readMirror, writeMirror } from "../../agent/counter-mirror.ts";
import { initVerifier, openSqliteStore, parseVerifierConfig } from "../../attest/service/index.ts";
import { enrolledView } from "../../attest/service/machine-state.ts";
import { utf8 } from "../../policy/index.ts";
import { createSigningKeyFile, loadSigningKey, openStoreFile, Store, type StoreContent } from "../../seal/index.ts";
import { ENTRY, SMALL, START } from "../support/audit-fixture.ts";
import { makeEnrolment, softEccKey } from "../support/evidence-maker.ts";

/** Says that something is kept from now on. `written`: by the kernel, so that it outlives the process and no power cut. */
export type Acknowledge = (what: string, kept?: "durable" | "written") => void;

/** Something that the project's programs write, and what must hold of it whatever happened to one call. */
export interface FaultStore {
  /** What lies there before, made without a fault. */
  readonly prepare?: (directory: string) => Promise<void>;
  /** What the program does. Rejects as the program's own functions do; what must hold after a refusal, in the same process, is asserted here. */
  readonly write: (directory: string, acknowledge: Acknowledge) => Promise<void>;
  /** Opens it again, after a refusal or the program's end: all that was acknowledged is there, and nothing is half. */
  readonly check: (directory: string, acknowledged: readonly string[]) => Promise<void>;
  /** Codes of the errors that a refusal may have. */
  readonly refusals: readonly string[];
  /** Files whose content may be lost with the power: made again by whoever opens the store. */
  readonly scratch?: RegExp;
}

const ROUNDS = 3;
const text = (round: number) => `${round} `.repeat(3_000);

/** A write that was refused can be tried again: the fault is over. */
async function twice(act: () => unknown): Promise<void> {
  try {
    await act();
  } catch (error) {
    try {
      await act();
    } catch (cause) {
      throw new Error(`refused a second time: ${cause}`, { cause });
    }
    throw error;
  }
}

const auditLog = (directory: string) =>
  openAudit({ directory: join(directory, "log"), now: () => START, anchor: null, limits: SMALL });

const audit: FaultStore = {
  write: async (directory, acknowledge) => {
    const log = auditLog(directory);
    try {
      for (let round = 0; round < 9; round++) {
        const durability = round % 2 === 0 ? "durable" : "written";
        const { seq } = await log.append(ENTRY, durability);
        acknowledge(`${seq}`, durability);
        log.measure();
      }
    } catch (error) {
      // Fails closed: no record, no signature, and it is said.
      if (log.failed) {
        assert.equal(log.warnings[0]?.code, "audit-stopped");
        await assert.rejects(log.append(ENTRY, "written"), { code: "ERR_AUDIT_WRITE" });
      } else await log.append(ENTRY, "durable");
      throw error;
    } finally {
      log.close();
    }
  },
  check: async (directory, acknowledged) => {
    const log = auditLog(directory);
    assert.ok(log.head().seq >= Math.max(0, ...acknowledged.map(Number)), "a record that was acknowledged is gone");
    assert.equal((await log.append(ENTRY, "durable")).seq, log.head().seq);
    log.close();
  },
  refusals: ["ERR_AUDIT_WRITE", "ERR_ENVIRONMENT", "ERR_STATE_VOLUME"],
};

/** A crash left the half of a record: opening replaces it. */
const tornAudit: FaultStore = {
  ...audit,
  prepare: async (directory) => {
    const log = auditLog(directory);
    for (let round = 0; round < 5; round++) await log.append(ENTRY, "written");
    log.close();
    const last = readdirSync(join(directory, "log")).sort().at(-1) ?? "";
    writeFileSync(join(directory, "log", last), '{"seq":9,"time":"', { flag: "a" });
  },
};

const contentOf = (round: number): StoreContent => {
  const entry = { name: "hsm-pin", state: "served", generation: round, package: utf8(text(round)), imported: null };
  return { ekName: "00".repeat(34), entries: [entry as StoreContent["entries"][number]] };
};

const agentStore: FaultStore = {
  write: async (directory, acknowledge) => {
    const medium = openStoreFile(join(directory, "store"));
    try {
      const { store } = Store.open(medium);
      for (let round = 1; round <= ROUNDS; round++) {
        await twice(() => store.write(contentOf(round)));
        acknowledge(`${round}`);
      }
    } finally {
      medium.close();
    }
  },
  check: async (directory, acknowledged) => {
    const medium = openStoreFile(join(directory, "store"));
    const { store, opened } = Store.open(medium);
    assert.equal(opened.damaged, false);
    const [found] = opened.content.entries;
    const last = Number(acknowledged.at(-1) ?? 0);
    assert.ok([last, last + 1].includes(found?.generation ?? 0), `${found?.generation} after ${last}`);
    if (found !== undefined) assert.deepEqual(opened.content, contentOf(found.generation));
    store.write(contentOf(99));
    medium.close();
  },
  refusals: ["ERR_STORE"],
};

const counters: FaultStore = {
  write: async (directory, acknowledge) => {
    for (let round = 1; round <= ROUNDS; round++) {
      await twice(() => writeMirror(directory, { epoch: BigInt(round), resetCount: round, restartCount: 0 }));
      acknowledge(`${round}`);
    }
  },
  check: async (directory, acknowledged) => {
    const found = readMirror(directory)?.resetCount ?? 0;
    const last = Number(acknowledged.at(-1) ?? 0);
    assert.ok([last, last + 1].includes(found), `${found} after ${last}`);
    writeMirror(directory, { epoch: 9n, resetCount: 99, restartCount: 0 });
  },
  refusals: ["ERR_STATE_VOLUME"],
};

const AT = "2026-06-01T00:00:00.000Z";
const KEEP = { reportsPerMachine: 3, bytesPerMachine: 1 << 30, eventsPerMachine: 4 };
const database = (directory: string) => openSqliteStore(join(directory, "verifier.db"), KEEP);

const verifier: FaultStore = {
  write: async (directory, acknowledge) => {
    const store = database(directory);
    for (const name of ["one", "two"]) {
      const key = await softEccKey();
      const ekName = `000b${Buffer.from(name).toString("hex").padStart(64, "0")}`;
      await twice(() => store.enrol({ ...makeEnrolment(key), name, ekName }, AT));
      acknowledge(`machine ${name}`);
      const machine = await store.machine(name);
      assert.ok(machine);
      const view = { ...enrolledView(AT), state: "refused" } as const;
      await store.change(machine, { view, events: [{ at: AT, kind: "refused", detail: {} }], report: REPORT });
      acknowledge(`report ${name}`);
      await store.addToken(utf8(name.padEnd(32)), name, "2999-01-01T00:00:00.000Z");
      acknowledge(`token ${name}`);
    }
    await store.close();
  },
  check: async (directory, acknowledged) => {
    const store = database(directory);
    for (const line of acknowledged) {
      const [what, name = ""] = line.split(" ");
      const machine = await store.machine(name);
      assert.equal(machine?.name, name, line);
      if (what === "report") assert.equal((await store.reports(machine.id)).length, 1, line);
      if (what === "token") assert.equal(await store.takeToken(utf8(name.padEnd(32)), AT), name, line);
    }
    for (const { id, view, lastReport } of await store.machines()) {
      const reports = await store.reports(id);
      assert.deepEqual([reports.length, lastReport !== null], view.state === "refused" ? [1, true] : [0, false]);
    }
    await store.close();
    const file = new DatabaseSync(join(directory, "verifier.db"));
    assert.deepEqual({ ...file.prepare("PRAGMA integrity_check").get() }, { integrity_check: "ok" });
    file.close();
  },
  refusals: ["ERR_SERVICE_STORE"],
  // The index of the write-ahead log; and the database itself, which the log is copied into only once that is on the disk.
  scratch: /-shm$|verifier\.db$/,
};

const REPORT = {
  ...{ at: AT, codes: ["pcr-replay"], challenged: AT, previous: null, result: null, reasons: [] },
  tier: "refused",
  challenge: { nonce: new Uint8Array(32), bank: "sha256", pcrs: [0, 13] },
  evidence: new Uint8Array(20_000),
} as const;

/** What a command writes with `--out`: over what was there before. */
const output: FaultStore = {
  write: async (directory, acknowledge) => {
    for (let round = 1; round <= ROUNDS; round++) {
      await twice(() => writeOutput(join(directory, "release.json"), text(round)));
      acknowledge(`${round}`);
    }
  },
  check: async (directory, acknowledged) => {
    const path = join(directory, "release.json");
    const last = Number(acknowledged.at(-1) ?? 0);
    const found = existsSync(path) ? readFileSync(path, "utf8") : text(0);
    assert.ok([text(last), text(last + 1)].includes(found), "neither the old file nor the new one");
    await writeOutput(path, text(99));
  },
  refusals: ["ERR_ENVIRONMENT"],
};

const FILES = new Map(["a", "deep/b", "deep/c"].map((name) => [name, utf8(text(name.length))]));

/** `report --export DIR` and the like. */
const directory: FaultStore = {
  write: async (at, acknowledge) => {
    await twice(() => writeDirectory(join(at, "export"), FILES));
    acknowledge("all");
  },
  check: async (at, acknowledged) => {
    const path = join(at, "export");
    if (acknowledged.length === 0 && !existsSync(path)) await writeDirectory(path, FILES);
    for (const [name, bytes] of FILES) assert.deepEqual(new Uint8Array(readFileSync(join(path, name))), bytes);
  },
  refusals: ["ERR_ENVIRONMENT"],
};

/** Of a release root, which can never be made again. */
const keyFile: FaultStore = {
  write: async (directory, acknowledge) => {
    await twice(() => createSigningKeyFile(join(directory, "root.pem")));
    acknowledge("key");
  },
  check: async (directory, acknowledged) => {
    const path = join(directory, "root.pem");
    if (acknowledged.length === 0 && !existsSync(path)) await createSigningKeyFile(path);
    await loadSigningKey(path);
  },
  refusals: ["ERR_KEY_FILE"],
};

const verifierFolder: FaultStore = {
  write: async (directory, acknowledge) => {
    const none = { releaseAnchors: null, endorsementAnchors: null };
    await initVerifier({ folder: join(directory, "verifier"), createKey: createSigningKeyFile, ...none });
    acknowledge("folder");
  },
  // The configuration is written last: with it everything that it names is there.
  check: async (directory, acknowledged) => {
    const at = (name: string) => join(directory, "verifier", name);
    if (acknowledged.length === 0 && !existsSync(at("verifier.json"))) return;
    const { signingKey, policy } = parseVerifierConfig(new Uint8Array(readFileSync(at("verifier.json"))));
    await loadSigningKey(at(signingKey));
    for (const name of [policy, "viewer.token", "operator.token"]) assert.ok(readFileSync(at(name)).length > 40, name);
  },
  refusals: ["ERR_SERVICE_FILE", "ERR_KEY_FILE"],
};

export const STORES = {
  ...{ audit, "audit-repair": tornAudit, "agent-store": agentStore, counters, verifier },
  ...{ output, directory, "key-file": keyFile, "verifier-folder": verifierFolder },
} satisfies Readonly<Record<string, FaultStore>>;

export type StoreName = keyof typeof STORES;

export function makePlace(root: string, name: string): string {
  const place = join(root, name);
  mkdirSync(place, { recursive: true });
  return place;
}
