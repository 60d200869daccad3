import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { INITRD_ACTS, PACKAGE_ACTS, WARNING_ACTS } from "../../agent/cli/codes/log-lines.ts";
import { root } from "./documents.ts";

/** Lines that are in no log of agent/LOGS.md, and where they are seen. */
export interface OtherLines {
  readonly title: string;
  readonly seen: string;
  /** As the sources have them; `...` where a value stands. */
  readonly lines: readonly string[];
  readonly acts: Readonly<Record<string, string>>;
}

export function otherLines(): readonly OtherLines[] {
  return [
    {
      title: "The last line of an initrd",
      seen: "The console, as `initrd: LINE, powering off`: nothing of the root has run. A block of the root disk that was changed is told by the kernel instead: `device-mapper: verity: ... is corrupted`, then a panic.",
      lines: initrdLines(),
      acts: INITRD_ACTS,
    },
    {
      title: "Lines of the package",
      seen: "What `dpkg` prints, as `ironclaw-agent: LINE`.",
      lines: packageLines(),
      acts: PACKAGE_ACTS,
    },
    {
      title: "Warnings of commands",
      seen: "`warning: LINE`, on standard error or at the end of `cabinet list`. The exit code does not change.",
      lines: commandWarnings(),
      acts: WARNING_ACTS,
    },
  ];
}

const sorted = (lines: readonly string[]): readonly string[] => [...new Set(lines)].sort();

const read = (folder: string, ending: string): readonly string[] =>
  readdirSync(join(root, folder))
    .filter((name) => name.endsWith(ending))
    .map((name) => readFileSync(join(root, folder, name), "utf8"));

/** Which argument of a call is the step that failed, and which says how; the second is absent where it is the kernel's word. */
const GIVES_UP: Readonly<Record<string, readonly [step: number, detail?: number]>> = {
  give_up: [0, 1],
  mount_or_give_up: [1],
  control: [3],
};

const CALL = /\b(give_up|mount_or_give_up|control)\(((?:"[^"]*"|\([^()]*\)|[^()"])*)\)(?! \{)/g;
const ARGUMENT = /(?:"[^"]*"|\([^()]*\)|[^,()"])+/g;

function initrdLines(): readonly string[] {
  return sorted(read("vm-images/initrd", ".c").flatMap(endsOf));
}

/** Of one file: `STEP: DETAIL` of each call that ends the machine. */
function endsOf(text: string): readonly string[] {
  const macros = new Map(
    [...text.matchAll(/^#define (\w+) "(.*)"$/gm)].map(([, name = "", value = ""]) => [name, value]),
  );
  return [...text.matchAll(CALL)].map(([, name = "", given = ""]) => {
    const [step = 0, detail] = GIVES_UP[name] ?? [];
    const args = (given.match(ARGUMENT) ?? []).map((argument) => textOf(argument.trim(), macros));
    return `${args[step]}: ${detail === undefined ? "..." : args[detail]}`;
  });
}

/** Of C's texts side by side, some of them macros; anything else is only known when it runs. */
function textOf(expression: string, macros: ReadonlyMap<string, string>): string {
  const parts = expression.match(/"[^"]*"|\w+|\S/g) ?? [];
  const texts = parts.map((part) => (part.startsWith('"') ? part.slice(1, -1) : macros.get(part)));
  return texts.every((text) => text !== undefined) ? texts.join("") : "...";
}

function packageLines(): readonly string[] {
  const scripts = ["preinst", "postinst", "prerm", "postrm"].map((name) =>
    readFileSync(join(root, "vm-images/debian", name), "utf8"),
  );
  return sorted(
    scripts.flatMap((text) =>
      [...text.matchAll(/\becho "(?:ironclaw-agent: )?([^"]*)"/g)].map(([, line = ""]) =>
        line.replaceAll(/\$\{[^}]*\}|\$\w+/g, "..."),
      ),
    ),
  );
}

const withoutValues = (text: string): string => text.replaceAll(/\$\{[^}]*\}/g, "...");

/** Every text after `warning: `; those of functions called `warnAbout...`, which hand theirs on, and of the table that `measure` has. */
function commandWarnings(): readonly string[] {
  const found = read("agent/cli", ".ts").flatMap((text) => {
    const written = [...text.matchAll(/[`"]warning: ([^`"]*)[`"]/g)].map(([, line = ""]) => withoutValues(line));
    const bodies = [...text.matchAll(/^(?:async )?function warnAbout\w+\([\s\S]*?^\}/gm)].map(([body]) => body);
    const handedOn = bodies.flatMap((body) =>
      [...body.matchAll(/`([^`]*)`/g)].map(([, line = ""]) => withoutValues(line)),
    );
    const [table = ""] = /^const WARNINGS: [\s\S]*?^\};/m.exec(text) ?? [];
    const traits = [...table.matchAll(/: "([^"]*)",$/gm)].map(([, line = ""]) => `...: ${line}`);
    return [...written, ...handedOn, ...traits];
  });
  // A value alone, or with its path, is one of the others.
  return sorted(found.filter((line) => line !== "..." && line !== "...: ..."));
}
