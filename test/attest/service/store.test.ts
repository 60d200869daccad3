import { execFileSync } from "node:child_process";
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
const keep = { reportsPerMachine: 3, bytesPerMachine: 1 << 30, eventsPerMachine: 4 };
const at = "2026-06-01T00:00:00.000Z";
let folder = "";
let files = 0;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "ironclaw-store-"));
});
afterAll(() => rmSync(folder, { recursive: true }));
const file = () => join(folder, `${++files}.db`);

/** Runs a writer that copies its files before each statement: the copy's path, and what was acknowledged by then. */
function copiesOfEachMoment(path: string): readonly { readonly copy: string; readonly said: readonly string[] }[] {
  const lines = execFileSync(process.execPath, [child, path], { encoding: "utf8" }).split("\n").slice(0, -1);
  return lines.flatMap((line, at) => {
    const [what, number] = line.split(" ");
    const said = lines.slice(0, at).filter((before) => !before.startsWith("statement"));
    return what === "statement" ? [{ copy: `${path}.${number}`, said }] : [];
  });
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
  test("I11: whose process ends before any one statement has all that it acknowledged, and no half of anything", async () => {
    // What a process leaves when it is killed is its files as they are: opening, then two machines with a report and a token each.
    const moments = copiesOfEachMoment(file());
    for (const { copy, said } of moments) await expectKept(copy, said);
    expect(moments.length).toBeGreaterThan(25);
    expect(moments.at(-1)?.said.length).toBeGreaterThanOrEqual(6);
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
    changed.exec("PRAGMA user_version = 3");
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

  test("I9: a note of foreign reports adds to the newest one, is no change of the machine, and is not written for a retired one", async () => {
    const store = openSqliteStore(":memory:", keep);
    const { machine } = await store.enrol(makeEnrolment(await softEccKey()), at);
    for (const count of [2, Number.MAX_SAFE_INTEGER])
      await store.noteRejected(machine.id, { at, count, code: "signature" });
    expect(await store.events(machine.id)).toMatchObject([
      { kind: "rejected", detail: { count: Number.MAX_SAFE_INTEGER, code: "signature" } },
      { kind: "enrolled" },
    ]);
    expect(await store.change(machine, { view: machine.view, events: [{ at, kind: "affirming", detail: {} }] })).toBe(
      true,
    );
    await store.noteRejected(machine.id, { at, count: 1, code: "extra-data" });
    expect((await store.events(machine.id))[0]).toMatchObject({ kind: "rejected", detail: { count: 1 } });
    await store.retire("m1", at);
    expect(await store.noteRejected(machine.id, { at, count: 1, code: "signature" })).toBe(false);
    await store.close();
  });

  test("I9: what a stranger or the machine makes many of has quotas of its own, and pushes out nothing else", async () => {
    const store = openSqliteStore(":memory:", { ...keep, eventsPerMachine: 20 });
    const { machine } = await store.enrol(makeEnrolment(await softEccKey()), at);
    for (let index = 0; index < 40; index++) {
      await store.noteRejected(machine.id, { at, count: 1, code: "signature" });
      const read = await store.machine("m1");
      if (read !== null)
        await store.change(read, { view: read.view, events: [{ at, kind: "violation", detail: { count: index } }] });
    }
    const kinds = (await store.events(machine.id)).map(({ kind }) => kind);
    expect(kinds).toEqual(["violation", "rejected", "violation", "rejected", "enrolled"]);
    await store.close();
  });

  test("I10: a count beyond what is exact is read as the largest that is", async () => {
    const store = openSqliteStore(":memory:", keep);
    const { machine } = await store.enrol(makeEnrolment(await softEccKey()), at);
    await store.change(machine, { view: { ...machine.view, violations: 2 ** 54 }, events: [] });
    expect((await store.machines())[0]?.view.violations).toBe(Number.MAX_SAFE_INTEGER);
    await store.close();
  });

  test("I9: one EK certificate under two names is a clone, whatever Name its EK is given", async () => {
    const store = openSqliteStore(":memory:", keep);
    const ekCertificateSha256 = "ab".repeat(32);
    const [one, two] = [makeEnrolment(await softEccKey()), makeEnrolment(await softEccKey())];
    await store.enrol({ ...one, ekCertificateSha256 }, at);
    const other = { ...two, name: "m2", ekName: `000b${"cd".repeat(32)}` };
    expect(await store.enrol({ ...other, ekCertificateSha256 }, at)).toMatchObject({
      ...{ kind: "clone", machine: { name: "m1" }, other: null },
    });
    expect((await store.enrol({ ...other, ekCertificateSha256: "cd".repeat(32) }, at)).kind).toBe("enrolled");
    expect((await store.enrol({ ...one, ekCertificateSha256 }, at)).kind).toBe("enrolled-again");
    await store.retire("m1", at);
    const third = { ...makeEnrolment(await softEccKey()), name: "m3", ekName: `000b${"ef".repeat(32)}` };
    expect((await store.enrol({ ...third, ekCertificateSha256 }, at)).kind).toBe("enrolled");
    const pinned = { ...makeEnrolment(await softEccKey()), name: "m4", ekName: `000b${"12".repeat(32)}` };
    expect((await store.enrol({ ...pinned, ekCertificateSha256: null }, at)).kind).toBe("enrolled");
    expect((await store.enrol({ ...makeEnrolment(await softEccKey()), name: "m5" }, at)).kind).toBe("enrolled");
    await store.close();
  });

  test("I10: no enrolment reads all machines, in a database from before its certificates had an index as well", async () => {
    const path = file();
    await openSqliteStore(path, keep).close();
    // On a connection of its own each time: a plan is made of the schema that a connection has read, which may be an older one.
    const ask = <T>(question: (database: DatabaseSync) => T): T => {
      const database = new DatabaseSync(path);
      try {
        return question(database);
      } finally {
        database.close();
      }
    };
    const enrolled = "SELECT * FROM machines WHERE retired_at IS NULL AND";
    const plan = (condition: string) =>
      ask((database) => database.prepare(`EXPLAIN QUERY PLAN ${enrolled} ${condition}`).all()).map(
        ({ detail }) => detail,
      );
    const conditions = {
      machine_by_name: "name = 'm'",
      machine_by_ek: "ek_name = 'ek'",
      machine_by_ak: "ak_name = 'ak'",
      machine_by_certificate: "name <> 'm' AND json_extract(enrolment, '$.ekCertificateSha256') = 'x' LIMIT 1",
    };
    ask((database) => database.exec("DROP INDEX machine_by_certificate"));
    expect(plan(conditions.machine_by_certificate)).toEqual([expect.stringMatching(/^SCAN machines/)]);
    await openSqliteStore(path, keep).close();
    for (const [index, condition] of Object.entries(conditions))
      expect(plan(condition)).toEqual([expect.stringMatching(new RegExp(`^SEARCH machines USING INDEX ${index} `))]);
  });

  test("I11: reports beyond so many bytes go, the oldest first, and the last one stays whatever its size", async () => {
    const store = openSqliteStore(":memory:", { reportsPerMachine: 10, bytesPerMachine: 260, eventsPerMachine: 10 });
    await store.enrol(makeEnrolment(await softEccKey()), at);
    const add = async (size: number) => {
      const machine = await store.machine("m1");
      const report = {
        ...{ at, codes: [], challenged: at, previous: null, result: null, reasons: [], tier: "refused" as const },
        ...{
          challenge: { nonce: new Uint8Array(32), bank: "sha256" as const, pcrs: [0] },
          evidence: new Uint8Array(size),
        },
      };
      if (machine === null) throw new Error("no machine");
      await store.change(machine, { view: machine.view, events: [], report });
      return (await store.reports(machine.id)).length;
    };
    expect([await add(100), await add(100), await add(100), await add(40), await add(1000), await add(1)]).toEqual([
      1, 2, 2, 3, 1, 1,
    ]);
    await store.close();
  });

  test("that is closed says so instead of doing nothing", async () => {
    const store = openSqliteStore(":memory:", keep);
    await store.close();
    await expect(store.check()).rejects.toMatchObject({ code: "ERR_SERVICE_STORE" });
  });
});
