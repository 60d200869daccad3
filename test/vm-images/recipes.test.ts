import { chmod, mkdir, mkdtemp, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { accountFiles } from "../../vm-images/accounts.ts";
import { Archive } from "../../vm-images/apt.ts";
import { kernelCommandLine } from "../../vm-images/kernel-image.ts";
import { encodeLock, lockPathOf, recipeLock } from "../../vm-images/lock.ts";
import { lockRecipe } from "../../vm-images/newest.ts";
import { ownFiles } from "../../vm-images/own-files.ts";
import { RECIPE_NAMES, readRecipe, rootPartOf, type Workload } from "../../vm-images/recipes.ts";

let directory: string;
beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), "recipes-"));
});
afterAll(() => rm(directory, { recursive: true, force: true }));

const workload: Workload = { name: "payer", uid: 3000, port: "workload.3000", argv: ["/usr/bin/payer"] };
const own = { packages: ["jq"], root: ["/usr/bin/jq"], workloads: [workload] };
const whole = {
  ...{ version: 1, kernel: "linux-image-6.12-cloud-amd64", modules: [], commandLine: [], ...own },
  trial: { packages: [], root: [], workloads: [] },
};

async function folderWith(image: unknown, files: Readonly<Record<string, string>> = {}): Promise<string> {
  const folder = await mkdtemp(join(directory, "recipe-"));
  await writeFile(join(folder, "image.json"), typeof image === "string" ? image : JSON.stringify(image));
  for (const [path, content] of Object.entries(files)) {
    await mkdir(dirname(join(folder, path)), { recursive: true });
    await writeFile(join(folder, path), content);
  }
  return folder;
}

const text = (bytes: Uint8Array | undefined): string => new TextDecoder().decode(bytes);

describe("the project's recipes", () => {
  it("are those that the README names", async () => {
    const readme = await readFile(join(import.meta.dirname, "../../vm-images/README.md"), "utf8");
    for (const name of RECIPE_NAMES) expect(readme).toContain(`| \`${name}\``);
  });

  it.each(RECIPE_NAMES)(
    "I12: the release of %s has nothing of the demo: no stock client, no stranger",
    async (name) => {
      const recipe = await readRecipe(name);
      const release = rootPartOf(recipe, "release");
      expect(release.root).toEqual(["/usr/lib/x86_64-linux-gnu/pkcs11/p11-kit-client.so"]);
      expect(release.workloads.map(({ uid }) => uid)).toEqual([2001]);
      expect(rootPartOf(recipe, "demo").workloads.map(({ uid }) => uid)).toEqual([2001, 2002]);
      expect(rootPartOf(recipe, "dev")).toEqual(rootPartOf(recipe, "demo"));
    },
  );

  it.each(RECIPE_NAMES)(
    "the kernel of the release of %s is told the same as the demo's, but for its name and its root",
    async (name) => {
      const recipe = await readRecipe(name);
      const line = kernelCommandLine("release", recipe, "verity=1:2:3:erofs");
      expect(line.replace("ironclaw.variant=release", "ironclaw.variant=demo")).toBe(
        kernelCommandLine("demo", recipe, "verity=1:2:3:erofs"),
      );
      expect(line.split(" ")).toEqual(expect.arrayContaining(["lockdown=confidentiality", "init_on_free=1"]));
      expect(kernelCommandLine("dev", recipe, "x")).not.toContain("lockdown");
    },
  );
});

describe("a recipe", () => {
  it("is a folder anywhere, and takes what it does not say from the one that it is like", async () => {
    const recipe = await readRecipe(await folderWith({ version: 1, like: "usb", workloads: [workload] }));
    const usb = await readRecipe("usb");
    expect(recipe).toMatchObject({ kernel: usb.kernel, modules: ["xhci-pci"], commandLine: usb.commandLine });
    expect(recipe.workloads).toEqual([workload]);
    expect(await readRecipe(await folderWith(whole))).toMatchObject({ ...own, kernel: whole.kernel });
  });

  it.each([
    ["no version", { ...whole, version: undefined }, /version/],
    ["another version", { ...whole, version: 2 }, /version/],
    ["an unknown field", { ...whole, shell: true }, /shell/],
    ["a missing field", { ...whole, trial: undefined }, /trial/],
    ["a recipe that there is none of", { version: 1, like: "../cloud" }, /like.*got \.\.\/cloud/],
    ["the root's hash", { ...whole, commandLine: ["verity=1:2:3:erofs"] }, /commandLine\.0/],
    ["another variant", { ...whole, commandLine: ["ironclaw.variant=release"] }, /commandLine\.0/],
    ["no lockdown", { ...whole, commandLine: ["lockdown=none"] }, /commandLine\.0/],
    ["another spelling of a kernel parameter", { ...whole, commandLine: ["init-on-free=0"] }, /commandLine\.0/],
    ["two words in one", { ...whole, commandLine: ["quiet init=/bin/sh"] }, /commandLine\.0/],
    ["a path with dots", { ...whole, root: ["/usr/../etc/shadow"] }, /root\.0/],
    ["a relative path", { ...whole, root: ["usr/bin/jq"] }, /root\.0/],
    ["an option for a package", { ...whole, packages: ["-o"] }, /packages\.0/],
    ["root's uid", { ...whole, workloads: [{ ...workload, uid: 0 }] }, /workloads\.0\.uid/],
    ["the shim's uid", { ...whole, workloads: [{ ...workload, uid: 991 }] }, /workloads\.0\.uid/],
    ["the agent's name", { ...whole, workloads: [{ ...workload, name: "ironclaw" }] }, /workloads\.0\.name/],
    ["the agent's port", { ...whole, workloads: [{ ...workload, port: "ironclaw.control" }] }, /workloads\.0\.port/],
    ["a space in an argument", { ...whole, workloads: [{ ...workload, argv: ["/a", "b c"] }] }, /workloads\.0\.argv/],
    ["a line end in one", { ...whole, workloads: [{ ...workload, argv: ["/a", "b\nroot 0 - /x"] }] }, /argv/],
    ["a uid twice", { ...whole, workloads: [workload, { ...workload, name: "b", port: null }] }, /uid.*3000 twice/],
    ["one more in the trial part", { ...whole, trial: { ...whole.trial, workloads: [workload] } }, /name.*payer twice/],
    ["no JSON", "{", /recipe/],
  ])("I10: with %s is refused by name", async (_what, image, message) => {
    await expect(readRecipe(await folderWith(image))).rejects.toMatchObject({
      code: "ERR_IMAGE_MALFORMED",
      message: expect.stringMatching(message),
    });
  });

  it("I10: ends in a recipe or a typed error, whatever the bytes", async () => {
    const folder = await folderWith(whole);
    const seed = JSON.stringify(whole);
    await fc.assert(
      fc.asyncProperty(fc.nat(seed.length - 1), fc.string({ maxLength: 4 }), async (at, change) => {
        await writeFile(join(folder, "image.json"), seed.slice(0, at) + change + seed.slice(at + change.length));
        await readRecipe(folder).catch((error) => expect(error).toMatchObject({ code: "ERR_IMAGE_MALFORMED" }));
      }),
      { numRuns: 300 },
    );
  });

  it("that is not there is named, with those that are", async () => {
    await expect(readRecipe(join(directory, "none"))).rejects.toMatchObject({
      code: "ERR_IMAGE_SOURCE",
      hint: expect.stringContaining("cloud-6.1"),
    });
  });

  it("makes accounts without a shell and the spawner's list of its workloads", () => {
    const files = accountFiles([workload, { name: "quiet", uid: 3001, port: null, argv: ["/usr/bin/quiet", "-x"] }]);
    expect(text(files.get("/etc/ironclaw/workloads"))).toBe(
      "payer 3000 workload.3000 /usr/bin/payer\nquiet 3001 - /usr/bin/quiet -x\n",
    );
    const passwd = text(files.get("/etc/passwd")).trim().split("\n");
    expect(passwd.map((line) => line.split(":").slice(0, 3).join(" "))).toEqual([
      ...["root x 0", "ironclaw x 990", "ironclaw-shim x 991", "payer x 3000", "quiet x 3001"],
    ]);
    expect(passwd.every((line) => line.endsWith(":/usr/sbin/nologin"))).toBe(true);
  });
});

describe("a recipe's locked packages", () => {
  const locked = { group: "recipe", name: "jq", version: "1.6-2.1", sha256: "ab".repeat(32) } as const;

  it("I12: are the project's and its own; one that no lock has is refused, with the command that locks it", async () => {
    const recipe = await readRecipe(await folderWith(whole));
    await expect(recipeLock(recipe)).rejects.toMatchObject({
      code: "ERR_IMAGE_PACKAGE",
      message: expect.stringMatching(/package jq/),
      hint: `ironclaw image lock ${recipe.folder}`,
    });
    await writeFile(lockPathOf(recipe), encodeLock([locked]));
    const found = await recipeLock(recipe);
    expect(found.filter(({ group }) => group === "recipe")).toEqual([locked]);
    expect(found.filter(({ group }) => group === "kernel")).toMatchObject([{ through: recipe.kernel }]);
  });

  it("I12: its own lock cannot put another file in the place of one that the project locks", async () => {
    const recipe = await readRecipe(await folderWith(whole));
    const libc = { ...locked, group: "guest", name: "libc6" } as const;
    await writeFile(lockPathOf(recipe), encodeLock([locked, { ...libc, group: "recipe" }]));
    const found = (await recipeLock(recipe)).filter(({ name }) => name === "libc6");
    expect(found.map(({ sha256 }) => sha256)).not.toContain(libc.sha256);
    expect(found).toHaveLength(1);
    await writeFile(lockPathOf(recipe), encodeLock([locked, libc]));
    await expect(recipeLock(recipe)).rejects.toMatchObject({ code: "ERR_IMAGE_PACKAGE" });
  });

  it("are locked without asking anybody where all are, keep their version, and go when the recipe names them no more", async () => {
    const archive = new Archive(join(directory, "no-archive"));
    const named = await readRecipe(await folderWith(whole));
    expect(await lockRecipe(archive, named, [locked, { ...locked, name: "libjq1" }])).toEqual([locked]);
    const like = await readRecipe(await folderWith({ version: 1, like: "usb" }));
    expect(await lockRecipe(archive, like, [locked])).toEqual([]);
  });

  it.each([
    ["a version with a slash", { ...locked, version: "1/../2" }],
    ["a name with a slash", { ...locked, name: "../jq" }],
    ["a digest that is cut", { ...locked, sha256: "ab" }],
  ])("I10: with %s are refused", async (_what, entry) => {
    const recipe = await readRecipe(await folderWith(whole));
    await writeFile(lockPathOf(recipe), encodeLock([entry]));
    await expect(recipeLock(recipe)).rejects.toMatchObject({ code: "ERR_IMAGE_MALFORMED" });
  });
});

describe("a recipe's own files", () => {
  it("I12: go in with 0755 if their owner may execute them and else 0644, whatever else their modes say", async () => {
    const folder = await folderWith(whole, { "root/usr/bin/payer": "#!", "root/etc/payer.conf": "x" });
    await chmod(join(folder, "root/usr/bin/payer"), 0o4777);
    await chmod(join(folder, "root/etc/payer.conf"), 0o666);
    const found = (await ownFiles({ folder })).map(({ entry }) => [entry.path, entry.mode.toString(8)]);
    expect(found.sort()).toEqual([
      ["/etc/payer.conf", "644"],
      ["/usr/bin/payer", "755"],
    ]);
  });

  it.each([
    "/init",
    "/usr/lib/ironclaw/shim",
    "/etc/ironclaw/agent.json",
    "/etc/passwd",
    "/etc/ld.so.preload",
    "/usr/bin/a b",
  ])("I1: %s is refused", async (path) => {
    const folder = await folderWith(whole, { [`root${path}`]: "x" });
    await expect(ownFiles({ folder })).rejects.toMatchObject({ code: "ERR_IMAGE_SOURCE" });
  });

  it("a link is refused: it may lead out of the folder", async () => {
    const folder = await folderWith(whole, { "root/etc/a": "x" });
    await symlink("/etc/shadow", join(folder, "root/etc/b"));
    await expect(ownFiles({ folder })).rejects.toMatchObject({ code: "ERR_IMAGE_SOURCE" });
  });
});
