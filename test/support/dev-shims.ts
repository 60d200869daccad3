import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { firstModule, parsePolicy, sha256Hex } from "../../policy/index.ts";
import { TOKEN_DIRECTORY } from "../../vm-images/token/token.ts";
import { type Dev, processesOf, SHIM_UID, SHIMS, slotOf } from "./dev-machine.ts";

/** Both shims of a machine that serves, from outside of their namespaces. */
export function describeShims(dev: Dev): void {
  describe.each([
    ["active", 0],
    ["spare", 1],
  ])("the %s shim, as root in the guest sees it", (_role, id) => {
    let pid: string;
    beforeAll(async () => {
      const shims = await processesOf(dev(), SHIM_UID);
      expect(shims).toHaveLength(SHIMS);
      pid = shims[id] ?? "";
    });

    it("I5: runs under its own uid, without capabilities, with three filters and no way to new privileges", async () => {
      const status = await dev().shell.output(`cat /proc/${pid}/status`);
      const field = (name: string) =>
        new RegExp(`^${name}:[ \\t]*(.*?)[ \\t]*$`, "m").exec(status)?.[1]?.replaceAll("\t", " ");
      const uid = `${SHIM_UID} ${SHIM_UID} ${SHIM_UID} ${SHIM_UID}`;
      expect([field("Uid"), field("Gid"), field("Groups")]).toEqual([uid, uid, ""]);
      for (const set of ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"])
        expect([set, field(set)]).toEqual([set, "0".repeat(16)]);
      expect([field("Seccomp"), field("Seccomp_filters"), field("NoNewPrivs")]).toEqual(["2", "3", "1"]);
      expect(field("Threads")).toBe("1");
    });

    it("I5: has a network of its own with nothing in it but a loopback that is down", async () => {
      const links = await dev().shell.output(`nsenter -t ${pid} -n ip link`);
      expect(links.match(/^\d+: \S+ <[^>]*>/gm)).toEqual(["1: lo: <LOOPBACK>"]);
      expect(await dev().shell.output(`nsenter -t ${pid} -n ip route`)).toBe("");
    });

    it.each(["net", "user", "mnt", "pid", "ipc", "uts", "cgroup"])(
      "I5: shares its %s namespace with no other process",
      async (kind) => {
        const links = await dev().shell.output(`for p in /proc/[0-9]*; do echo "$p $(readlink $p/ns/${kind})"; done`);
        const namespaces = links.split("\n").map((line) => line.split(" "));
        const own = namespaces.find(([path]) => path === `/proc/${pid}`)?.[1];
        expect(own).toMatch(/^\w+:\[\d+\]$/);
        expect(namespaces.filter(([, inode]) => inode === own)).toHaveLength(1);
      },
    );

    it("I1: sees exactly the pinned files, with the pinned content, and its token", async () => {
      const module = firstModule(parsePolicy(slotOf(dev().stage.machine, "policy")));
      const shimDigest = sha256Hex(await readFile(join(dev().stage.image.tree, "usr/lib/ironclaw/shim")));
      const pinned = new Map([
        ...Object.entries({ ...module.closure, ...module.config, [module.path]: module.sha256 }),
        ["/shim", shimDigest],
        ["/profile", module.profile.sha256],
      ]);
      const sums = await dev().shell.output(`cd /proc/${pid}/root/ && find . -type f -exec sha256sum {} +`);
      const found = sums.split("\n").map((line): [string, string] => [line.slice(67), line.slice(0, 64)]);
      const files = found.filter(([path]) => !path.startsWith(`${TOKEN_DIRECTORY}/`));
      expect(new Map(files.sort())).toEqual(new Map([...pinned].sort()));
      const given = dev().stage.machine.token.files.map(({ path }) => path);
      const kept = found.map(([path]) => path).filter((path) => path.startsWith(`${TOKEN_DIRECTORY}/`));
      expect(kept.sort()).toEqual([...given].sort());
      expect(await dev().shell.output(`find /proc/${pid}/root/ ! -type f ! -type d`)).toBe("");
    });

    it("I5: can write nowhere but in its token directory, where nothing can be executed", async () => {
      const mounts = (await dev().shell.output(`cat /proc/${pid}/mountinfo`))
        .split("\n")
        .map((line) => line.split(" "));
      expect(mounts.map(([, , , , path, options]) => [path, options?.split(",").slice(0, -1)])).toEqual([
        ["/", ["ro", "nosuid", "nodev"]],
        [TOKEN_DIRECTORY, ["rw", "nosuid", "nodev", "noexec"]],
      ]);
      const touched = await dev().shell.run(`touch /proc/${pid}/root/x`);
      expect(touched.output).toContain("Read-only file system");
      expect(touched.code).not.toBe(0);
    });

    it("I4: has closed the pipe that the PIN came through, and holds no other descriptor", async () => {
      expect((await dev().shell.output(`ls /proc/${pid}/fd`)).split("\n")).toEqual(["0", "1", "2", "3"]);
      expect(await dev().shell.output(`readlink /proc/${pid}/fd/3`)).toMatch(/^socket:/);
    });
  });
}
