import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { openSqliteStore } from "../../../attest/service/index.ts";
import { enrolledView } from "../../../attest/service/machine-state.ts";
import type { StoredReport, VerifierStore } from "../../../attest/service/store.ts";
import { openStore } from "../../../attest/service/store-thread.ts";
import { makeEnrolment, softEccKey } from "../../support/evidence-maker.ts";

const keep = { reportsPerMachine: 20, bytesPerMachine: 1 << 30, eventsPerMachine: 40 };
const at = "2026-06-01T00:00:00.000Z";
const later = "2999-01-01T00:00:00.000Z";
const token = (number: number) => new Uint8Array(32).fill(number);
let folder = "";
let files = 0;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "ironclaw-store-"));
});
afterAll(() => rmSync(folder, { recursive: true }));
const file = () => join(folder, `${++files}.db`);

async function enrol(store: VerifierStore, name: string, number: number) {
  const ekName = `000b${number.toString(16).padStart(64, "0")}`;
  return (await store.enrol({ ...makeEnrolment(await softEccKey()), name, ekName }, at)).machine;
}
const report = (evidence: Uint8Array): Omit<StoredReport, "id"> => ({
  ...{ at, codes: [], challenged: at, previous: null, result: null, reasons: [] },
  challenge: { nonce: token(0), bank: "sha256", pcrs: [0] },
  tier: "refused",
  evidence,
});

describe("the store that writes in a thread of its own", () => {
  test("I11: what it acknowledges is on the disk and is read at once, however many come at a time", async () => {
    const path = file();
    const store = openStore(path, keep);
    const machines = await Promise.all(Array.from({ length: 100 }, (_, index) => enrol(store, `m${index}`, index)));
    const others = openSqliteStore(path, keep); // another connection, which sees what was committed and nothing else
    await Promise.all(
      machines.map(async (machine, index) => {
        const view = { ...enrolledView(at), violations: index };
        expect(await store.change(machine, { view, events: [], report: report(Uint8Array.of(index)) })).toBe(true);
        expect((await store.machine(machine.name))?.view.violations).toBe(index);
        const [{ id } = { id: 0 }] = await others.reports(machine.id);
        expect((await others.report(machine.id, id))?.evidence).toEqual(Uint8Array.of(index));
      }),
    );
    await others.close();
    await store.close();
  });

  test("I9: of two changes that were made of one state, the later is not written, also where they are written together", async () => {
    const store = openStore(file(), keep);
    const machine = await enrol(store, "m", 1);
    const change = (violations: number) =>
      store.change(machine, {
        view: { ...enrolledView(at), violations },
        events: [{ at, kind: "violation", detail: { count: violations } }],
      });
    expect(await Promise.all([change(1), change(2), change(3)])).toEqual([true, false, false]);
    expect((await store.machine("m"))?.view.violations).toBe(1);
    expect(await store.events(machine.id)).toHaveLength(2);
    const taken = [store.addToken(token(1), "m", later), store.takeToken(token(1), at), store.takeToken(token(1), at)];
    expect(await Promise.all(taken)).toEqual([undefined, "m", null]);
    await store.close();
  });

  test("I10: a write that fails is refused with a typed error, and takes none of those beside it with it", async () => {
    const store = openStore(file(), keep);
    const outcomes = await Promise.allSettled(
      [1, 2, 2, 3].map((number) => store.addToken(token(number), `m${number}`, later)),
    );
    expect(outcomes.map(({ status }) => status)).toEqual(["fulfilled", "fulfilled", "rejected", "fulfilled"]);
    expect(outcomes[2]).toMatchObject({
      reason: { code: "ERR_SERVICE_STORE", message: expect.stringMatching(/UNIQUE/) },
    });
    for (const number of [1, 2, 3]) expect(await store.takeToken(token(number), at)).toBe(`m${number}`);
    await store.close();
  });

  test("I11: closing waits for what was given before, and nothing is taken behind it", async () => {
    const path = file();
    const store = openStore(path, keep);
    const written = [1, 2, 3].map((number) => store.addToken(token(number), "m", later));
    const closed = store.close();
    await expect(store.addToken(token(4), "m", later)).rejects.toMatchObject({ code: "ERR_SERVICE_STORE" });
    await Promise.all([...written, closed]);
    const again = openSqliteStore(path, keep);
    for (const number of [1, 2, 3]) expect(await again.takeToken(token(number), at)).toBe("m");
    await again.close();
  });

  test("I10: once its thread has ended it says so, to whoever waits, to whoever comes, and to a health check", async () => {
    const store = openStore(file(), keep, new URL("data:text/javascript,process.exit(1)"));
    await expect(store.addToken(token(1), "m", later)).rejects.toMatchObject({ code: "ERR_SERVICE_STORE" });
    await expect(store.prune(at)).rejects.toMatchObject({ code: "ERR_SERVICE_STORE" });
    await expect(store.check()).rejects.toMatchObject({ code: "ERR_SERVICE_STORE" });
    expect(await store.machines()).toEqual([]);
    await store.close();
  });
});

describe("writes that share a transaction", () => {
  test("I11: none of them is written where all of it is lost", async () => {
    const path = file();
    const store = openSqliteStore(path, keep);
    const lost = store.together([
      () => store.addToken(token(1), "m", later),
      () => store.close(),
      () => store.addToken(token(2), "m", later),
    ]);
    await expect(lost).rejects.toMatchObject({ code: "ERR_SERVICE_STORE" });
    const again = openSqliteStore(path, keep);
    expect(await again.takeToken(token(1), at)).toBeNull();
    expect(await again.takeToken(token(2), at)).toBeNull();
    await again.close();
  });
});
