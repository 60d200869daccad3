import { execFileSync } from "node:child_process";
import { appendFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import type { Space } from "../../../agent/audit/files.ts";
import { AuditBench, ENTRY } from "../../support/audit-fixture.ts";

const MEBIBYTE = 1 << 20;
const script = resolve(import.meta.dirname, "../../support/fill-audit.ts");

let bench: AuditBench;
beforeEach(() => {
  bench = new AuditBench();
});
afterEach(() => bench.remove());

describe("room for the log", () => {
  it("I8: on a filesystem that fills up, the warning comes first, then signing stops, and the log's own records still find room", () => {
    const mount = `mount -t tmpfs -o size=1m tmpfs "$0" && exec "$1" "$2" "$0"`;
    const namespace = ["--user", "--map-root-user", "--mount", "sh", "-c", mount];
    const out = execFileSync("unshare", [...namespace, bench.root, process.execPath, script], { encoding: "utf8" });
    const met = JSON.parse(out);
    expect(met).toMatchObject({ codes: ["audit-space-low", "audit-full"], reserved: true, files: 1 });
    expect(met.records).toBeGreaterThan(1_000);
    expect(met.refused).toContain("audit log: no room");
    // With the reserve taken, the write itself fails: that stops the log for good.
    expect(met.stopped).toMatch(/ENOSPC|bytes were written/);
    expect(met.last).toBe("audit-stopped");
  });

  it("I8: what is full is open again once there is room; a record that was refused was never written", async () => {
    let space: Space = { free: 64 * MEBIBYTE, total: 64 * MEBIBYTE };
    const log = bench.open({ files: { space: () => space } });
    await log.append(ENTRY, "written");
    expect(log.warnings).toEqual([]);
    space = { ...space, free: 8 * MEBIBYTE - 1 };
    log.measure();
    expect(log.warnings).toMatchObject([{ code: "audit-space-low" }]);
    await log.append(ENTRY, "written");
    space = { ...space, free: MEBIBYTE / 2 - 1 };
    log.measure();
    expect(log.warnings).toMatchObject([{ code: "audit-full" }]);
    await expect(log.append(ENTRY, "written")).rejects.toMatchObject({ code: "ERR_AUDIT_WRITE" });
    space = { ...space, free: 9 * MEBIBYTE };
    log.measure();
    expect((await log.append(ENTRY, "written")).seq).toBe(3);
    log.close();
  });

  it.each([
    ["ENOSPC", { code: "ENOSPC", errno: -28 }],
    ["EDQUOT, for which Node has no name,", { code: "Unknown system error -122", errno: -122 }],
  ])("I11: %s at the record of a repair is `state-full`, and the torn bytes stay", async (_, fields) => {
    await bench.write(1);
    appendFileSync(join(bench.directory, "0000000000000001.log"), "torn");
    const replace = () => {
      throw Object.assign(new Error("no space"), fields);
    };
    expect(() => bench.open({ files: { replace } })).toThrow(expect.objectContaining({ state: "state-full" }));
    const log = bench.open();
    expect(log.repairedBytes).toBe(4);
    log.close();
  });
});
