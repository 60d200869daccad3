import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { PROGRAMS, problemOf } from "./check.ts";
import { commandsOf, type DocumentedCommand, documents, readDocument, root } from "./documents.ts";
import { RUN_BY } from "./run-by.ts";
import { commandsIn } from "./shell.ts";

const all = documents().flatMap((document) => commandsOf(document, readDocument(document), PROGRAMS));
const blocks = all.filter(({ kind }) => kind === "block");

/** A test runs the block that this command stands in. */
function isRun({ document, heading, section }: DocumentedCommand): boolean {
  return RUN_BY.filter((row) => row.document === document).some(({ files, whole }) => {
    const title = whole === true ? section : heading;
    return title !== "" && files.some((file) => readFileSync(join(root, file), "utf8").includes(title));
  });
}

describe("commands in documents", () => {
  test("each command of every document of the tree is run by a test, or parses against its program's real options", async () => {
    const problems = await Promise.all(
      all.map(async (command) => {
        const problem = await problemOf(command);
        return problem === null ? [] : [`${command.place}: ${command.words.join(" ")}: ${problem}`];
      }),
    );
    expect(problems.flat()).toEqual([]);
    const run = blocks.filter(isRun).length;
    console.log(`${all.length} commands in documents: ${run} run as they stand, ${all.length - run} parsed`);
  });

  test("a row of RUN_BY names files that are there, and a document of which something is run", () => {
    for (const { document, files } of RUN_BY) {
      for (const file of files) expect(existsSync(join(root, file)), file).toBe(true);
      expect(
        blocks.filter((command) => command.document === document && isRun(command)).length,
        document,
      ).toBeGreaterThan(0);
    }
  });

  test("a walk-through is run whole: of its documents no block with a command of ours is left out", () => {
    const walks = [
      ...["seal/README.md", "attest/service/README.md"],
      ...["agent/docs/drills.md", "agent/docs/your-own-module.md"],
    ];
    const left = blocks.filter((command) => walks.includes(command.document) && !isRun(command));
    expect(left.map(({ place }) => place)).toEqual([]);
  });

  test("there are documents, and commands in them", () => {
    expect(documents()).toEqual(
      expect.arrayContaining(["README.md", "agent/docs/operator-guide.md", ".github/CHANGELOG.md"]),
    );
    expect(blocks.length).toBeGreaterThan(50);
  });
});

describe("what is found", () => {
  const problemsIn = async (text: string) => {
    const found = commandsOf("x.md", text, PROGRAMS);
    return (await Promise.all(found.map(problemOf))).filter((problem) => problem !== null);
  };
  const block = (command: string) => `# x\n\n\`\`\`sh\n${command}\n\`\`\`\n`;

  test.each([
    ["an unknown command", "ironclaw frobnicate"],
    ["an unknown word of a group", "ironclaw policy frobnicate x"],
    ["an unknown option", "ironclaw policy check x --frobnicate"],
    ["a required option that is missing", "ironclaw seal --root root.pub < pin"],
    ["an argument too many", "ironclaw policy check a b"],
    ["an argument too few", "ironclaw policy check"],
    ["an option twice", "ironclaw release show r --anchors a --anchors b"],
    ["one behind a pipe", "cat x | ironclaw frobnicate"],
    ["one in a substitution", 'x="$(ironclaw frobnicate)"'],
    ["one behind `&&`", "true && ironclaw frobnicate"],
    ["one after a continued line", "true \\\n  a\nironclaw frobnicate"],
    ["one behind a prompt", "$ ironclaw frobnicate"],
    ["an npm script that there is none of", "npm run frobnicate"],
    ["an option that a script does not know", "npm run fuzz -- --frobnicate"],
    ["our command through npm", "npm run -s ironclaw -- frobnicate"],
    ["an option beside a variable that nothing sets", "ironclaw ek show ek.der $EK --frobnicate"],
    ["a program that is not there", "node test/frobnicate.ts"],
    ["a test that is not there", "npx vitest run --config .config/vitest.config.ts test/frobnicate.test.ts"],
    ["a configuration that is not there", "npx vitest run --config .config/frobnicate.ts test/tree.test.ts"],
    ["a program that npm has not installed", "npx frobnicate"],
  ])("%s, in a fenced and in an indented block", async (_, command) => {
    expect(await problemsIn(block(command))).toHaveLength(1);
    expect(await problemsIn(`x\n\n${command.replaceAll(/^/gm, "    ")}\n`)).toHaveLength(1);
  });

  test.each([
    ["a command that does not exist", "`ironclaw frobnicate`"],
    ["an option that does not exist", "`ironclaw freeze --frobnicate`"],
    ["too many arguments", "`ironclaw policy check a b`"],
    ["a script that does not exist", "`npm run frobnicate`"],
  ])("%s in a sentence", async (_, span) => {
    expect(await problemsIn(`see ${span} there`)).toHaveLength(1);
  });

  test("what is right, or no command of ours, is left alone", async () => {
    const right = [
      "ironclaw policy check policy.json # with a comment",
      "ironclaw release show release.json \\\n  --anchors anchors.json | head -3 > x 2>&1",
      'ek="--ek-certificate ek.der --ca ca.pem"\nironclaw seal $ek --root r --operator o --out x < pin',
      "cat > a.json <<'END'\nironclaw frobnicate\nEND",
      "echo 'ironclaw frobnicate'; ls",
      "ironclaw ek show ek.der $EK",
      "npm start -- --json",
      "npx vitest run --config .config/vitest.config.ts test/tree.test.ts",
      "if ironclaw policy check x; then echo yes; fi",
    ];
    for (const command of right) expect(await problemsIn(block(command)), command).toEqual([]);
    expect(
      await problemsIn(
        "`ironclaw release predict|sign`, `ironclaw`, `ironclaw COMMAND --help`, `ironclaw policy --help`",
      ),
    ).toEqual([]);
    expect(await problemsIn("```json\nironclaw frobnicate\n```\n")).toEqual([]);
  });

  test("a script's commands are found with their lines", () => {
    expect(commandsIn('a b\n\n(cd x && c "$(d e)" f)\ng')).toEqual([
      { words: ["a", "b"], line: 0, open: false },
      { words: ["cd", "x"], line: 2, open: false },
      { words: ["d", "e"], line: 2, open: false },
      { words: ["c", "$()", "f"], line: 2, open: false },
      { words: ["g"], line: 3, open: false },
    ]);
  });
});
