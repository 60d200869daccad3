import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, describe, expect, it } from "vitest";
import { scanFiles, totalCount } from "../../vm-images/pin-scan.ts";

const directory = mkdtempSync(join(tmpdir(), "scan-"));
afterAll(() => rmSync(directory, { recursive: true }));
const file = join(directory, "dump");
const PIN = "73914826";

describe("scanFiles", () => {
  it("I4: every copy is found, in three encodings and wherever a chunk ends", async () => {
    const copies = fc.array(fc.tuple(fc.nat(40), fc.constantFrom("utf8", "utf16le", "utf16be")), { maxLength: 6 });
    await fc.assert(
      fc.asyncProperty(copies, fc.integer({ min: 1, max: 64 }), async (placed, chunkSize) => {
        const wide = Buffer.from(PIN, "utf16le");
        const forms: Record<string, Buffer> = {
          utf8: Buffer.from(PIN),
          utf16le: wide,
          utf16be: Buffer.from(wide).swap16(),
        };
        // 0xff keeps a copy's edge from completing one in the other byte order.
        const parts = placed.flatMap(([gap, form]) => [Buffer.alloc(gap + 1, 0xff), forms[form] ?? Buffer.alloc(0)]);
        writeFileSync(file, Buffer.concat([...parts, Buffer.alloc(1, 0xff)]));
        const [counts] = await scanFiles([file], PIN, chunkSize);
        const count = (form: string): number => placed.filter(([, own]) => own === form).length;
        expect(counts).toEqual({ file, utf8: count("utf8"), utf16le: count("utf16le"), utf16be: count("utf16be") });
      }),
      { numRuns: 200 },
    );
  });

  it("overlapping occurrences count, and totals add up", async () => {
    writeFileSync(file, "11111");
    const results = await scanFiles([file, file], "1111", 3);
    expect(results[0]?.utf8).toBe(2);
    expect(totalCount(results)).toBe(4);
  });

  it("a missing file is an error, not a clean result", async () => {
    await expect(scanFiles([join(directory, "none")], PIN)).rejects.toThrow(/ENOENT/);
    await expect(scanFiles([file], "123")).rejects.toThrow(TypeError);
  });
});
