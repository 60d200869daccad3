import { cpSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { cli } from "../../support/cli.ts";
import { EVIL, GOOD, isEcSignature } from "../attacks.ts";
import { ID, type Lab } from "../bench.ts";
import { digestOf, signWithTool, tried } from "../clients.ts";
import { deliberatelyWeakPolicy, hardenedPolicy, WEAK_SCOPE } from "../deliberately-weak-policy.ts";
import type { Step, Try } from "../step.ts";
import { signRelease } from "./harden-use.ts";

export const OBSERVE: readonly Step[] = [
  {
    ...{ number: 12, part: "observe", title: "Where trust moved" },
    attacked: "the record: somebody edits, or cuts off, what the log says about him",
    change: null,
    enforcedBy: "whoever verifies: the hash chain finds an edit, an earlier head finds a log that was cut off",
    run: async (lab) => {
      const before = lab.lastRecord();
      const tries = await sameAttackTwice(lab);
      const from = `${before + 1}`;
      const shown = await printed("ironclaw audit show LOG", ["audit", "show", lab.auditPath, "--from", from]);
      const head = lab.audit.head();
      const known = ["--head", `${head.seq}:${head.hash}`];
      tries.push(await verifies("the log as it is", lab.auditPath, known, "accepted"));
      tries.push(await verifies("a copy with one word edited", edited(lab, before + 1), [], "refused"));
      tries.push(await verifies("a copy without its last record", cut(lab), known, "refused"));
      tries.push(await verifies("the same, and nobody kept a head", cut(lab), [], "accepted"));
      return { tries, shown, audit: lab.records(before) };
    },
  },
];

/** Under the weak policy it is served, under the hardened one it is refused, and the signer is served. */
async function sameAttackTwice(lab: Lab): Promise<Try[]> {
  const asking = {
    program: lab.stock,
    uid: lab.uids.service,
    id: ID.ec,
    mechanism: "ECDSA",
    data: digestOf(EVIL),
  } as const;
  const good = isEcSignature(lab, EVIL);
  const tries: Try[] = [];
  {
    await using weak = await lab.serve(deliberatelyWeakPolicy(lab));
    tries.push(tried("accepted", await signWithTool(lab, weak, { ...asking, scope: WEAK_SCOPE }), good));
  }
  await using hardened = await lab.serve(hardenedPolicy(lab));
  tries.push(tried("refused", await signWithTool(lab, hardened, { ...asking, scope: "release" }), good));
  tries.push(await signRelease(lab, hardened, GOOD, "accepted"));
  return tries;
}

async function printed(command: string, args: readonly string[]): Promise<readonly string[]> {
  const { out } = await cli(args);
  return [command, ...out.trimEnd().split("\n")];
}

async function verifies(
  who: string,
  path: string,
  options: readonly string[],
  expected: Try["expected"],
): Promise<Try> {
  const { code, out, err } = await cli(["audit", "verify", path, ...options]);
  const [first = ""] = `${out}${err}`.trim().replaceAll(path, "LOG").split("\n");
  const command = ["ironclaw audit verify LOG", ...options.map((word) => word.replace(/:[0-9a-f]{64}$/, ":..."))].join(
    " ",
  );
  return { who, command, expected, outcome: code === 0 ? "accepted" : "refused", answer: first };
}

/** A copy whose record `seq` says that what was allowed was refused. */
function edited(lab: Lab, seq: number): string {
  return changed(lab, "edited-audit", (lines) =>
    lines.map((line) =>
      line.includes(`{"seq":${seq},`) ? line.replace('"decision":"allow"', '"decision":"deny"') : line,
    ),
  );
}

function cut(lab: Lab): string {
  return changed(lab, "cut-audit", (lines) => lines.slice(0, -1));
}

function changed(lab: Lab, name: string, change: (lines: readonly string[]) => readonly string[]): string {
  const copy = join(lab.directory, name);
  cpSync(lab.auditPath, copy, { recursive: true, force: true });
  const [segment = ""] = readdirSync(copy).filter((file) => readFileSync(join(copy, file)).length > 0);
  const lines = readFileSync(join(copy, segment), "utf8").split("\n").slice(0, -1);
  writeFileSync(
    join(copy, segment),
    change(lines)
      .map((line) => `${line}\n`)
      .join(""),
  );
  return copy;
}
