import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { readCabinetInputs } from "../../agent/launch/cabinet.ts";
import { encodeCabinet, utf8 } from "../../policy/index.ts";
import { memoryMedium, Store } from "../../seal/index.ts";

const directory = mkdtempSync(join(tmpdir(), "cabinet-device-"));
afterAll(() => rmSync(directory, { recursive: true, force: true }));
const at = (name: string) => join(directory, name);
const store = Store.open(memoryMedium()).store.content;
const UNREADABLE = { code: "ERR_CABINET_UNREADABLE", expected: "a file or partition that can be read" };

describe("the cabinet's device", () => {
  test.each([
    ["that is not there", at("nothing"), "no such file"],
    ["that is a directory", directory, "a directory"],
    ["below a file", join(import.meta.filename, "x"), "no directory"],
    ["that gives an input error", "/proc/self/mem", "EIO"],
  ])("I10: one %s is a reason of its own", async (_, path, got) => {
    expect(await readCabinetInputs(path, store)).toEqual({
      ...{ partial: {}, reasons: [{ ...UNREADABLE, item: "cabinet", got }] },
    });
  });

  test("I10: a pipe that nobody writes into is not waited for", async () => {
    execFileSync("mkfifo", [at("fifo")]);
    expect((await readCabinetInputs(at("fifo"), store)).reasons).toEqual([
      { ...UNREADABLE, item: "cabinet", got: "ESPIPE" },
    ]);
  });

  test("one that can be read is read document by document", async () => {
    writeFileSync(at("cabinet.img"), encodeCabinet(new Map([["machine", utf8('{"name": "m1"}')]])));
    const { partial, reasons } = await readCabinetInputs(at("cabinet.img"), store);
    expect(partial.machine).toBe("m1");
    expect(reasons.map(({ item }) => item)).toContain("policy");
  });
});
