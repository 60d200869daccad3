import { readFileSync } from "node:fs";
import { resolve } from "node:path";
import { describe, expect, test } from "vitest";
import { AGENT_UID, agentProcess, agentsFiles } from "../../../agent/doctor/index.ts";
import { accountFiles } from "../../../vm-images/accounts.ts";
import { systemTree } from "../../support/system-tree.ts";

const CONFIG = "/etc/ironclaw/agent.json";
const words = (...given: readonly string[]) => `${given.join("\0")}\0`;
const AGENT = words("/usr/lib/ironclaw/node", "/usr/lib/ironclaw/agent.cjs", "agent", "--config", CONFIG);
const status = (users: readonly number[], name = "node") =>
  `Name:\t${name}\nUmask:\t0022\nPid:\t4711\nUid:\t${users.join("\t")}\nGid:\t990\t990\t990\t990\n`;
const OWN = [AGENT_UID, AGENT_UID, AGENT_UID, AGENT_UID];

function found(cmdline: string, shown: string | null): number | null {
  using tree = systemTree({ "/proc/4711/cmdline": cmdline, "/proc/4711/status": shown });
  return agentProcess(tree.files, CONFIG);
}

describe("the agent's process", () => {
  test("I2: has its arguments and, in all four places, its user", () => {
    expect(found(AGENT, status(OWN))).toBe(4711);
  });

  test.each([
    ["another user's", AGENT, status([1000, 1000, 1000, 1000])],
    ["root's, which starts others with arguments of anybody's", AGENT, status([0, 0, 0, 0])],
    ["a set-user-ID program's, which the agent's user did not start", AGENT, status([1000, 990, 990, 990])],
    ["one whose name says the user", AGENT, status([1000, 1000, 1000, 1000], "x\\nUid:\t990\t990\t990\t990")],
    ["one that is gone", AGENT, null],
    ["the unsealer's", words("/usr/lib/ironclaw/unsealer"), status(OWN)],
    ["an agent's with another configuration", words("node", "agent", "--config", `${CONFIG}.new`), status(OWN)],
  ])("I2: is not %s", (_, cmdline, shown) => {
    expect(found(cmdline, shown)).toBeNull();
  });

  test("I2: is looked for under the number that image, package and spawner give its user", () => {
    const header = readFileSync(resolve(import.meta.dirname, "../../../agent/spawner/spawner.h"), "utf8");
    expect(/^#define AGENT_UID (\d+)$/m.exec(header)?.[1]).toBe(`${AGENT_UID}`);
    const accounts = new TextDecoder().decode(accountFiles([]).get("/etc/passwd"));
    expect(accounts).toContain(`\nironclaw:x:${AGENT_UID}:`);
  });

  test("its files are those of its own root, and the system's where it does not run or may not be looked at", () => {
    using tree = systemTree({ "/state/whose": "the system's", "/proc/4711/root/state/whose": "the agent's" });
    const whose = (pid: number | null) => agentsFiles(tree.files, pid).text("/state/whose");
    expect([whose(4711), whose(4712), whose(null)]).toEqual(["the agent's", "the system's", "the system's"]);
  });
});
