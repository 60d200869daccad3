import * as z from "zod";
import { printableLine } from "../../policy/index.ts";
import { examine, type Finding, type Look } from "../doctor/index.ts";
import { AgentError } from "../errors.ts";
import { type Command, type CommandInput, UsageError } from "./command.ts";
import { hsmFindings } from "./doctor-hsm.ts";
import { configLooks, hostLooks, preparedLooks, systemLooks } from "./doctor-looks.ts";
import { withMachine } from "./machine-ports.ts";
import { answer, JSON_OPTION } from "./output.ts";

export const command: Command = {
  summary:
    "what is wrong with a machine, or will be, and the fix; nothing is changed, and no try is spent at TPM or token",
  positionals: [],
  options: {
    machine: { type: "string", value: "DIR", help: "ask a running machine, over its port sockets" },
    config: { type: "string", value: "FILE", help: "this system, with the agent whose configuration that is" },
    tcti: { type: "string", value: "TCTI", help: "a TPM, e.g. device:/dev/tpmrm0 or swtpm:path=tpm.sock" },
    cabinet: {
      type: "string",
      value: "FILE",
      help: "what a cabinet holds; with --tcti, whether it would unseal there",
    },
    store: { type: "string", value: "FILE", help: "with --cabinet: the machine's store" },
    module: {
      type: "string",
      value: "FILE",
      help: "a PKCS#11 library: is its token there. It is loaded as it is, and never logs in",
    },
    token: { type: "string", value: "LABEL", help: "with --module: this token" },
    host: {
      type: "string",
      value: "FILE",
      help: "a libvirt domain or QEMU command line: what it gives beyond --policy",
    },
    policy: { type: "string", value: "FILE", help: "with --host: the policy whose devices count (default: none)" },
    elsewhere: {
      type: "boolean",
      help: "with --host: the file is another host's, where nobody here knows which device is at a place",
    },
    json: JSON_OPTION,
  },
  examples: [
    "ironclaw doctor",
    "ironclaw doctor --machine /tmp/ironclaw-dev-x1/vm",
    "ironclaw doctor --config /etc/ironclaw/agent.json",
    "ironclaw doctor --tcti swtpm:path=tpm.sock --cabinet cabinet.img",
    "ironclaw doctor --module /usr/lib/softhsm/libsofthsm2.so --token signing",
    "ironclaw doctor --host domain.xml --policy policy.json",
    "ironclaw doctor --host domain.xml --policy policy.json --elsewhere",
  ],
  run: async (input, io) => {
    const findings = await examineAll(input);
    const ok = findings.every(({ level }) => level !== "fail");
    answer(input, io, { findings, ok }, render(findings));
    return ok ? 0 : 4;
  },
};

/** Each option names something to look at; without any, it is this system. */
async function examineAll(input: CommandInput): Promise<readonly Finding[]> {
  requireCompanions(input);
  const [machine, config, module, host] = ["machine", "config", "module", "host"].map((name) => input.optional(name));
  const isPrepared = config === undefined && (input.optional("tcti") ?? input.optional("cabinet")) !== undefined;
  const looks: readonly Look[] = [
    ...(config === undefined ? [] : await configLooks(config)),
    ...(isPrepared ? preparedLooks(input) : []),
    ...(module === undefined ? [] : [{ id: "hsm" as const, run: () => hsmFindings(module, input.optional("token")) }]),
    ...(host === undefined ? [] : hostLooks(hostFile(input, host))),
  ];
  const asked = machine === undefined ? [] : await askMachine(machine);
  if (machine === undefined && looks.length === 0) return examine(systemLooks());
  // Of what the agent has looked at itself, it knows more.
  const known = new Set(asked.map(({ id }) => id));
  return [...asked, ...(await examine(looks)).filter(({ id }) => !known.has(id))];
}

function hostFile(input: CommandInput, path: string) {
  return { path, policy: input.optional("policy"), elsewhere: input.flag("elsewhere") };
}

function requireCompanions(input: CommandInput): void {
  for (const [option, needed] of [
    ["token", "module"],
    ["policy", "host"],
    ["elsewhere", "host"],
    ["store", "cabinet"],
  ] as const) {
    const given = input.optional(option) !== undefined || input.flag(option);
    if (given && input.optional(needed) === undefined)
      throw new UsageError(`--${option}`, { expected: `--${needed} with it`, got: "none" });
  }
  if (input.optional("config") === undefined) return;
  for (const option of ["tcti", "cabinet", "store"]) {
    if (input.optional(option) !== undefined)
      throw new UsageError(`--${option}`, { expected: "it without --config, which names it", got: "both" });
  }
}

const text = z.string().max(1_024);
const machineFindings = z.object({
  findings: z
    .array(
      z.object({
        ...{ id: text, level: z.enum(["ok", "warn", "fail"]), what: text, got: text },
        ...{ expected: text.optional(), fix: text.optional() },
      }),
    )
    .max(1_024),
});

/** What the machine says is shown and no more; ids of a newer agent are shown as they are. */
function askMachine(directory: string): Promise<readonly Finding[]> {
  return withMachine(directory, async (control) => {
    const read = machineFindings.safeParse(await control.operating("doctor"));
    if (read.success) return read.data.findings as readonly Finding[];
    throw new AgentError("ERR_CONTROL_MALFORMED", "doctor", { expected: "findings", got: "another answer" });
  });
}

const LEVEL_WIDTH = 5;

function render(findings: readonly Finding[]): string {
  const width = Math.max(...findings.map(({ id }) => id.length), 0);
  const indent = " ".repeat(LEVEL_WIDTH + width + 2);
  const count = (level: Finding["level"]) => findings.filter((finding) => finding.level === level).length;
  return [
    ...findings.flatMap(({ id, level, what, got, expected, fix }) => {
      const compared = expected === undefined ? got : `expected ${expected}, got ${got}`;
      const line = `${level.padEnd(LEVEL_WIDTH)} ${id.padEnd(width)} ${what}: ${compared}`;
      return [line, ...(level === "ok" || fix === undefined ? [] : [`${indent}fix: ${fix}`])].map(printableLine);
    }),
    `${count("ok")} ok, ${count("warn")} to look at, ${count("fail")} wrong`,
  ].join("\n");
}
