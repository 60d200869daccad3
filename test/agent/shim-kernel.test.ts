import { existsSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { encodeProfile } from "../../policy/runtime/compile.ts";
import { parseProfile } from "../../policy/runtime/parse.ts";
import { syscallNumber } from "../../policy/runtime/syscalls.ts";
import { openShimBench } from "../support/shim-bench.ts";
import { benchSlot, buildHostile, hostProfileText, rvOf, SOFTHSM, TEST_PIN } from "../support/shim-fixture.ts";

const EPERM = 1;

const shims = openShimBench();

describe("a kernel with Landlock ABI 2", () => {
  test("I5: the shim asks it for nothing that it does not know, says 2, and denies the same", async () => {
    const environment = { LD_PRELOAD: buildHostile(shims.bench, "landlock-2", "module") };
    const { shim, give } = await shims.start({ environment });
    expect(shim.ready).toEqual({ landlockAbi: 2, filters: 1 });
    const probe = await shim.probe();
    for (const { name, errno } of probe) expect([1, 2, 13, 30], name).toContain(errno);
    give("a key");
    await shim.credential(join(shims.token.tokens, "file"));
    const slotId = benchSlot(await shim.load(SOFTHSM));
    give(TEST_PIN);
    await shim.login(slotId);
    expect(await shim.keys(slotId)).toHaveLength(2);
    expect(await shim.arm()).toBe(3);
    const other = await shims.start({ environment });
    other.give("a key");
    const outside = join(shims.bench.directory, "outside");
    expect(await rvOf(other.shim.credential(outside))).toBe(0x6n);
    expect(existsSync(outside)).toBe(false);
  });

  test("I5: the stand-in for it refuses what a newer kernel knows", async () => {
    const { shim } = await shims.start();
    // or the test above would hold nothing
    expect(shim.ready.landlockAbi).toBeGreaterThan(2);
  });
});

describe("the probe under profiles that open sockets", () => {
  const STREAM = 0x80801; // SOCK_STREAM, SOCK_NONBLOCK, SOCK_CLOEXEC
  const families = { unix: 1, inet: 2, inet6: 10, netlink: 16 } as const;
  const endpoints = [
    ...["socket AF_INET", "socket AF_INET6", "socket AF_UNIX", "socket AF_NETLINK", "socket AF_VSOCK"],
    ...["socket AF_PACKET", "datagram AF_INET", "datagram AF_INET6", "datagram AF_UNIX", "socketpair"],
    ...["connect", "bind", "listen", "accept4", "sendmsg", "recvmsg"],
  ];

  /** The local profile with these sockets allowed, as a relay's or a USB token's would. The linter would not pass it. */
  function opened(opens: number, allowed: readonly string[]): string {
    const text = hostProfileText(shims.bench, shims.token).replace("stage load", ["stage load", ...allowed].join("\n"));
    const bytes = encodeProfile(parseProfile(text));
    bytes[4 + 4 + 2 + "local".length] = opens;
    const path = join(shims.bench.directory, `profile-${opens}`);
    writeFileSync(path, bytes);
    return path;
  }
  const stream = (family: number) => `allow socket when arg0 is ${family} and arg1 only ${STREAM}`;

  test.each([
    [0, [], [], 9],
    [
      1,
      [stream(families.inet), stream(families.inet6), "allow connect"],
      ["socket AF_INET", "socket AF_INET6", "connect"],
      7,
    ],
    [2, [stream(families.unix), "allow connect"], ["socket AF_UNIX", "connect"], 8],
    [4, [`allow socket when arg0 is ${families.netlink}`, "allow bind"], ["socket AF_NETLINK", "bind"], 8],
  ] as const)(
    "I5: opens %i: what the profile allows is left out, and all else is still denied and seen",
    async (opens, allowed, left, seen) => {
      const { shim } = await shims.start({ profile: opened(opens, allowed) });
      const probe = await shim.probe();
      const names = new Set(probe.map(({ name }) => name));
      expect(endpoints.filter((name) => !names.has(name))).toEqual(left);
      for (const { name, errno } of probe) {
        if (endpoints.includes(name)) expect(errno, name).toBe(EPERM);
      }
      expect(shim.attempts()[syscallNumber("socket") ?? -1]).toBe(seen);
    },
  );
});
