import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, describe, expect, test } from "vitest";
import { utf8 } from "../../policy/index.ts";
import { GuestTree, requireGuestFile } from "../../vm-images/guest-tree.ts";

const directory = mkdtempSync(join(tmpdir(), "guest-tree-"));
afterAll(() => rmSync(directory, { recursive: true, force: true }));

describe("the guest's tree", () => {
  const tree = join(directory, "tree");
  mkdirSync(join(tree, "usr/lib"), { recursive: true });
  mkdirSync(join(tree, "etc"));
  writeFileSync(join(tree, "usr/lib/libc.so.6"), "guest libc");
  writeFileSync(join(tree, "etc/passwd"), "guest passwd");
  for (const [link, target] of [
    ["lib", "usr/lib"],
    ["lib64", "/lib"],
    ["usr/lib/libc.so", "libc.so.6"],
    ["escape", "../../../../../../../../etc/passwd"],
    ["usr/up", "../../.."],
    ["loop", "loop"],
    ["dangling", "nowhere"],
  ] as const)
    symlinkSync(target, join(tree, link));
  const overlay = [
    { path: "/etc/softhsm2.conf", bytes: utf8("laid over") },
    { path: "/etc/passwd2", bytes: utf8("2") },
  ];
  const guest = new GuestTree(tree, overlay);
  const text = (path: string) => {
    const bytes = guest.readFile(path);
    return bytes === null ? null : new TextDecoder().decode(bytes);
  };

  test("links are followed inside the tree, relative and absolute ones, chains of them", () => {
    expect(guest.realPath("/lib64/libc.so")).toBe("/usr/lib/libc.so.6");
    expect(text("/lib64/libc.so")).toBe("guest libc");
    expect(text("/etc/softhsm2.conf")).toBe("laid over");
    expect(text("/etc/../etc/softhsm2.conf")).toBe("laid over");
  });

  test("I1: no link and no path leads out of it to a file of this machine", () => {
    expect(text("/escape")).toBe("guest passwd");
    expect(text("/usr/up/etc/passwd")).toBe("guest passwd");
    expect(text("/../../../../etc/passwd")).toBe("guest passwd");
    const part = fc.constantFrom("..", ".", "usr", "up", "lib", "escape", "etc", "passwd", "loop", "lib64", "");
    fc.assert(
      fc.property(fc.array(part, { maxLength: 12 }), (parts) => {
        expect([null, "guest passwd", "guest libc"]).toContain(text(`/${parts.join("/")}`));
      }),
    );
  });

  test("a loop, a dangling link, a directory and a missing name are no files", () => {
    for (const path of ["/loop", "/loop/x", "/dangling", "/etc", "/nothing"]) expect(text(path)).toBeNull();
    expect(() => requireGuestFile(guest, "/nothing")).toThrow(expect.objectContaining({ code: "ERR_IMAGE_SOURCE" }));
  });
});
