import { describe, expect, test } from "vitest";
import { parseCommandLine } from "../../../agent/cli/command.ts";
import { commandsOf, groupsOf } from "../../../agent/cli/help.ts";
import { COMMANDS } from "../../../agent/cli/ironclaw.ts";
import { nearest, suggestCommands } from "../../../agent/cli/suggest.ts";
import { cli } from "../../support/cli.ts";

const names = Object.keys(COMMANDS);

/** The command of each example that a help shows, once its words were parsed as that command's. */
async function examplesIn(out: string): Promise<readonly string[]> {
  const examples = [...out.matchAll(/^ {2}(?:\.\.\. \| )?ironclaw ([a-z-]+ [a-z-]+)(.*?)(?: [<>|].*)?$/gm)];
  return Promise.all(
    examples.map(async ([, words = "", rest = ""]) => {
      const command = (await COMMANDS[words]?.())?.command;
      if (command === undefined) throw new Error(`an example of no command: ${words}`);
      const args = rest.replace("$(openssl rand -hex 32)", "00").split(" ");
      parseCommandLine(
        command,
        args.filter((word) => word !== ""),
      );
      return words;
    }),
  );
}

const isCommand = (group: string) => names.includes(group);

describe("the help of a group", () => {
  test.each(groupsOf(COMMANDS).filter((group) => !isCommand(group)))(
    "`%s --help` lists its commands, each with an example that parses",
    async (group) => {
      const members = commandsOf(group, COMMANDS) ?? [];
      const { code, out, err } = await cli([group, "--help"]);
      expect({ code, err }).toEqual({ code: 0, err: "" });
      for (const words of members) expect(out).toContain(`  ${words} `);
      expect(await examplesIn(out)).toEqual(members);
    },
  );

  test.each(groupsOf(COMMANDS).filter(isCommand))(
    "`%s --help`, of a command too, leads to the others' help, each with examples that parse",
    async (group) => {
      const { out } = await cli([group, "--help"]);
      for (const words of commandsOf(group, COMMANDS) ?? []) {
        expect(out).toContain(`  ironclaw ${words} --help`);
        const { code, out: own, err } = await cli([...words.split(" "), "--help"]);
        expect({ code, err }).toEqual({ code: 0, err: "" });
        const found = await examplesIn(own);
        expect(new Set(found), words).toEqual(new Set([words]));
      }
    },
  );

  test("that is a command too is the command's, and leads to the others", async () => {
    const { code, out } = await cli(["sessions", "--help"]);
    expect(code).toBe(0);
    expect(out).toContain("usage: ironclaw sessions [options]");
    expect(out).toContain("  ironclaw sessions end --help");
  });

  test("`help` in front is `--help` behind", async () => {
    for (const words of [["policy"], ["policy", "check"], []])
      expect(await cli(["help", ...words])).toEqual(await cli([...words, "--help"]));
  });

  test("a group alone is no command: exit code 2, with its commands", async () => {
    const { code, err } = await cli(["policy"]);
    expect(code).toBe(2);
    expect(err).toMatch(/expected one of .*policy check.*, got policy/);
    expect(err).toContain("hint: `ironclaw policy --help`");
  });
});

describe("a command that there is none of", () => {
  test.each([
    [["polcy", "check"], "`ironclaw policy check`"],
    [["policy", "chekc", "x.json"], "`ironclaw policy check`"],
    [["check", "policy"], "`ironclaw policy check`"],
    [["verfy", "report.cbor"], "`ironclaw verify`"],
    [
      ["sign"],
      "`ironclaw approve sign` or `ironclaw policy sign` or `ironclaw release sign` or `ironclaw workload sign`",
    ],
    [["polcy"], "`ironclaw policy`"],
  ] as const)("%j: the one that was meant is named", async (args, meant) => {
    const { code, err } = await cli(args);
    expect(code).toBe(2);
    expect(err).toContain(`hint: did you mean ${meant}?`);
  });

  test.each([[["frobnicate"]], [["x"]], [["constructor"]]])("%j: nothing is named that is not near", async (args) => {
    expect((await cli(args)).err).not.toContain("did you mean");
  });

  test("an option that is spelt almost so is named", async () => {
    expect((await cli(["report", "--machin", "m"])).err).toContain("hint: did you mean --machine?");
    expect((await cli(["report", "--nothing-like-it"])).err).not.toContain("did you mean");
  });

  test("every name with two letters exchanged is still found", () => {
    for (const name of names.filter((words) => words.length > 5)) {
      const mistyped = `${name.slice(0, 2)}${name[3]}${name[2]}${name.slice(4)}`;
      const [first = "", second] = mistyped.split(" ");
      expect(suggestCommands(second === undefined ? [first] : [first, second], names), mistyped).toContain(name);
    }
    expect(nearest([""], names)).toBeNull();
  });
});
