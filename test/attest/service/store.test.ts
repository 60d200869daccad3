import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { openSqliteStore } from "../../../attest/service/index.ts";
import { enrolledView } from "../../../attest/service/machine-state.ts";
import type { MachineRecord, VerifierStore } from "../../../attest/service/store.ts";
import { makeEnrolment, softEccKey } from "../../support/evidence-maker.ts";

const child = resolve(import.meta.dirname, "../../support/verifier-store-child.ts");
const keep = { reportsPerMachine: 3, eventsPerMachine: 4 };
const at = "2026-06-01T00:00:00.000Z";
let folder = "";
let files = 0;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "ironclaw-store-"));
});
afterAll(() => rmSync(folder, { recursive: true }));
const file = () => join(folder, `${++files}.db`);

/** Runs the writer, killed before the given statement or after so many lines; resolves with what it acknowledged. */
async function writeUntilKilled(
  path: string,
  statement: number,
  lines = Number.POSITIVE_INFINITY,
): Promise<readonly string[]> {
  const writer = spawn(process.execPath, [child, path, `${statement}`], { stdio: ["ignore", "pipe", "ignore"] });
  let said = "";
  writer.stdout.on("data", (chunk: Buffer) => {
    said += chunk.toString();
    if (said.split("\n").length > lines) writer.kill("SIGKILL");
  });
  await once(writer, "close");
  return said.split("\n").slice(0, -1);
}

/** Everything that was acknowledged is there, whole; and what is there is whole. */
async function expectKept(path: string, said: readonly string[]): Promise<void> {
  const store = openSqliteStore(path, keep);
  for (const line of said) {
    const [what, name = ""] = line.split(" ");
    const machine = await store.machine(name);
    if (what === "enrolled") expect(machine?.name, line).toBe(name);
    if (what === "reported") expect((await store.reports(machine?.id ?? 0)).length, line).toBe(1);
    if (what === "token") expect(await store.takeToken(new TextEncoder().encode(name.padEnd(32)), at), line).toBe(name);
  }
  for (const machine of await store.machines()) await expectWhole(store, machine);
  await store.close();
  const database = new DatabaseSync(path);
  expect(database.prepare("PRAGMA integrity_check").get()).toEqual({ integrity_check: "ok" });
  database.close();
}

/** State, event, report and the machine's pointer to it were one transaction. */
async function expectWhole(store: VerifierStore, machine: MachineRecord): Promise<void> {
  const reports = await store.reports(machine.id);
  const events = (await store.events(machine.id)).map(({ kind }) => kind);
  const refused = machine.view.state === "refused";
  expect({ reports: reports.length, events }).toEqual(
    refused ? { reports: 1, events: ["refused", "enrolled"] } : { reports: 0, events: ["enrolled"] },
  );
  expect(machine.lastReport === null).toBe(!refused);
  if (refused) expect((await store.report(machine.id, reports[0]?.id ?? 0))?.evidence).toHaveLength(20_000);
}

describe("the store", () => {
  test("I11: killed before any one statement has all that it acknowledged, and no half of anything", async () => {
    // Opening, then two machines with a report and a token each: every statement of every kind of write.
    let [statement, acknowledged] = [1, 0];
    for (; acknowledged < 7; statement++) {
      const path = file();
      const said = await writeUntilKilled(path, statement);
      acknowledged = said.length;
      await expectKept(path, said);
    }
    expect(statement).toBeGreaterThan(25);
  });

  test("I11: killed again and again at any time goes on from what it acknowledged", async () => {
    const path = file();
    const said: string[] = [];
    for (const lines of [2, 17, 40, 5, 63]) said.push(...(await writeUntilKilled(path, 0, lines)));
    expect(said.filter((line) => line.startsWith("token")).length).toBeGreaterThan(30);
    await expectKept(
      path,
      said.filter((line) => line !== "opened"),
    );
  });

  test("is for its owner's eyes only", async () => {
    const path = file();
    await openSqliteStore(path, keep).close();
    expect(statSync(path).mode & 0o777).toBe(0o600);
  });

  test("I10: of another program, of another version, or none at all is refused with a typed error", () => {
    const foreign = file();
    const database = new DatabaseSync(foreign);
    database.exec("CREATE TABLE notes (text TEXT)");
    database.close();
    const newer = file();
    openSqliteStore(newer, keep).close();
    const changed = new DatabaseSync(newer);
    changed.exec("PRAGMA user_version = 2");
    changed.close();
    const nonsense = file();
    writeFileSync(nonsense, "x".repeat(5000));
    for (const path of [foreign, newer, nonsense, join(folder, "no/such/folder.db")]) {
      expect(() => openSqliteStore(path, keep), path).toThrow(expect.objectContaining({ code: "ERR_SERVICE_STORE" }));
    }
  });

  test("I9: a change that was made of an older state of the machine is not written", async () => {
    const store = openSqliteStore(":memory:", keep);
    const { machine } = await store.enrol(makeEnrolment(await softEccKey()), at);
    const change = { view: { ...enrolledView(at), violations: 1 }, events: [] };
    expect(await store.change(machine, change)).toBe(true);
    expect(await store.change(machine, { ...change, view: { ...change.view, violations: 2 } })).toBe(false);
    expect((await store.machine("m1"))?.view.violations).toBe(1);
    await store.retire("m1", at);
    expect(await store.change({ id: machine.id, revision: 3 }, change)).toBe(false);
    await store.close();
  });

  test("I9: a token is taken once, also when it is too late", async () => {
    const store = openSqliteStore(":memory:", keep);
    const [one, two] = [new Uint8Array(32).fill(1), new Uint8Array(32).fill(2)];
    await store.addToken(one, "m1", "2026-06-02T00:00:00.000Z");
    await store.addToken(two, "m1", at);
    expect(await store.takeToken(one, at)).toBe("m1");
    expect(await store.takeToken(one, at)).toBeNull();
    expect(await store.takeToken(two, at)).toBeNull();
    expect(await store.takeToken(two, "2020-01-01T00:00:00.000Z")).toBeNull();
    await store.close();
  });

  test("the newest of each machine are kept, and no other machine's are touched", async () => {
    const store = openSqliteStore(":memory:", keep);
    const [key, other] = [await softEccKey(), await softEccKey()];
    await store.enrol(makeEnrolment(key), at);
    await store.enrol({ ...makeEnrolment(other), name: "m2", ekName: `000b${"cd".repeat(32)}` }, at);
    for (let index = 0; index < 6; index++) {
      for (const name of index < 2 ? ["m1", "m2"] : ["m1"]) {
        const machine = await store.machine(name);
        const report = {
          ...{ at, codes: [`${index}`], challenged: at, previous: null, result: null, reasons: [] },
          challenge: { nonce: new Uint8Array(32), bank: "sha256", pcrs: [0] },
          evidence: new Uint8Array(1),
          tier: "refused",
        } as const;
        const events = [{ at, kind: "refused", detail: { index } }] as const;
        if (machine !== null) await store.change(machine, { view: { ...machine.view, lastSeen: at }, events, report });
      }
    }
    const [one, two] = [await store.machine("m1"), await store.machine("m2")];
    expect((await store.reports(one?.id ?? 0)).map(({ codes }) => codes[0])).toEqual(["5", "4", "3"]);
    expect((await store.events(one?.id ?? 0)).map(({ detail }) => detail["index"])).toEqual([5, 4, 3, 2]);
    expect((await store.reports(two?.id ?? 0)).length).toBe(2);
    expect([...(await store.census()).states]).toEqual([["enrolled", 2]]);
    expect((await store.quietSince(at)).length).toBe(0);
    expect((await store.quietSince("2026-06-01T00:00:00.001Z")).length).toBe(2);
    expect(await store.prune("2027-01-01T00:00:00.000Z")).toBeGreaterThan(0);
    expect((await store.reports(one?.id ?? 0)).length).toBe(1);
    await store.close();
  });

  test("that is closed says so instead of doing nothing", async () => {
    const store = openSqliteStore(":memory:", keep);
    await store.close();
    await expect(store.check()).rejects.toMatchObject({ code: "ERR_SERVICE_STORE" });
  });
});
