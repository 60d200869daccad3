import { execFileSync } from "node:child_process";
import { once } from "node:events";
import { lstatSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { open } from "node:fs/promises";
import { connect, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { defaultAppraisalPolicy, encodeAppraisalPolicy } from "../../../attest/index.ts";
import { openSqliteStore, readTrustDocuments } from "../../../attest/service/index.ts";
import type { MachineRecord, VerifierStore } from "../../../attest/service/store.ts";
import { makeEnrolment, softEccKey } from "../../support/evidence-maker.ts";
import { OPERATOR, openVerifierBench, VIEWER } from "../../support/verifier-fixture.ts";

let folder = "";
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "ironclaw-operating-"));
});
afterAll(() => rmSync(folder, { recursive: true }));

const policyNamed = (name: string) => encodeAppraisalPolicy({ ...defaultAppraisalPolicy.document, name });

describe("a reload", () => {
  test("I9: that begins while another runs follows it: what is in force behind both is what was read last", async () => {
    await using bench = await openVerifierBench();
    const policy = join(bench.folder, "appraisal.json");
    rmSync(policy);
    execFileSync("mkfifo", [policy]);
    const done: string[] = [];
    const first = bench.service.reload().then(({ policy: { document } }) => done.push(document.name));
    const writer = await open(policy, "w"); // opens once the first reload reads it
    writeFileSync(join(bench.folder, "next.json"), policyNamed("second"));
    renameSync(join(bench.folder, "next.json"), policy);
    const second = bench.service.reload().then(({ policy: { document } }) => done.push(document.name));
    // As long as the second would take, if it did not wait.
    for (let at = 0; at < 3; at++) await readTrustDocuments(bench.config, (path) => join(bench.folder, path));
    await writer.writeFile(policyNamed("first"));
    await writer.close();
    await Promise.all([first, second]);
    expect(done).toEqual(["first", "second"]);
    const tpm = await bench.enrol("m1");
    expect((await bench.attest("m1", tpm)).body.result.policy.name).toBe("second");
  });

  test("that fails does not end those behind it", async () => {
    await using bench = await openVerifierBench();
    const policy = join(bench.folder, "appraisal.json");
    const good = readFileSync(policy);
    writeFileSync(policy, "{}");
    const failing = bench.service.reload();
    await expect(failing).rejects.toMatchObject({ code: "ERR_SERVICE_CONFIG" });
    writeFileSync(policy, good);
    expect((await bench.service.reload()).policy.document.name).toBe(defaultAppraisalPolicy.document.name);
  });
});

describe("the path of a Unix socket", () => {
  const openAt = (unix: string) => openVerifierBench({ config: (config) => ({ ...config, listen: { unix } }) });

  test("I11: that is another file is refused, and the file stays", async () => {
    const path = join(folder, "notes.txt");
    writeFileSync(path, "an operator's own");
    await using bench = await openAt(path);
    await expect(bench.service.listen()).rejects.toMatchObject({
      ...{ code: "ERR_SERVICE_LISTEN", hint: expect.stringContaining("listen.unix") },
    });
    expect(readFileSync(path, "utf8")).toBe("an operator's own");
  });

  test("I11: at which a program listens is refused, and the program goes on", async () => {
    const path = join(folder, "live");
    const other = createServer().listen(path);
    await once(other, "listening");
    await using bench = await openAt(path);
    await expect(bench.service.listen()).rejects.toMatchObject({
      ...{ code: "ERR_SERVICE_LISTEN", hint: expect.stringContaining("running already") },
    });
    const socket = connect(path);
    await once(socket, "connect");
    socket.destroy();
    other.close();
  });

  test("I11: that an ended service left behind is taken", async () => {
    const path = join(folder, "stale");
    // A child that binds and is killed leaves its socket.
    const program = `require("net").createServer().listen(${JSON.stringify(path)}, () => process.kill(process.pid, "SIGKILL"))`;
    expect(() => execFileSync(process.execPath, ["-e", program], { stdio: "ignore" })).toThrow();
    expect(lstatSync(path).isSocket()).toBe(true);
    await using bench = await openAt(path);
    expect(await bench.service.listen()).toBe(`unix:${path}`);
  });
});

describe("what an operator does", () => {
  /** A store in which another machine gets the name at the moment when the operator's change is written. */
  async function racing(kind: string): Promise<VerifierStore> {
    const inner = openSqliteStore(":memory:", {
      reportsPerMachine: 10,
      bytesPerMachine: 1 << 30,
      eventsPerMachine: 10,
    });
    const at = "2026-06-01T00:00:00.000Z";
    const enrolment = { ...makeEnrolment(await softEccKey()), name: "a", ekName: `000b${"ef".repeat(32)}` };
    let raced = false;
    const change: VerifierStore["change"] = async (machine, made) => {
      if (!raced && made.events.some((event) => event.kind === kind)) {
        raced = true;
        await inner.retire("a", at);
        await inner.enrol(enrolment, at);
      }
      return inner.change(machine, made);
    };
    return new Proxy(inner, {
      get: (target, name) => {
        if (name === "change") return change;
        const value: unknown = Reflect.get(target, name);
        return typeof value === "function" ? value.bind(target) : value;
      },
    });
  }

  test.each<[string, string, (lastReport: string) => [string, object]]>([
    ["accepts a report", "continuity-accepted", (accept) => ["continuity", { accept }]],
    ["begins the comparison anew", "continuity-reset", () => ["continuity", { accept: "reset" }]],
    ["clears a flag", "flags-cleared", () => ["flags", { clear: ["rebooted"] }]],
  ])(
    "I9: who %s does it to the machine that he saw, not to another that has its name since",
    async (_, kind, request) => {
      const store = await racing(kind);
      await using bench = await openVerifierBench({ dependencies: { store } });
      await bench.attest("a", await bench.enrol("a"));
      const { lastReport } = (await bench.ask("GET", "/v1/machines/a", { token: VIEWER })).body;
      const [path, body] = request(lastReport);
      const answer = await bench.ask("POST", `/v1/machines/a/${path}`, { token: OPERATOR, body });
      expect([answer.status, answer.body.error.code]).toEqual([404, "not-found"]);
      const now: MachineRecord | null = await store.machine("a");
      expect(now?.view.continuity).toBeNull();
      expect((await store.events(now?.id ?? 0)).map((event) => event.kind)).toEqual(["enrolled"]);
    },
  );
});
