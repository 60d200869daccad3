import { AgentError } from "../errors.ts";

const METRIC = "ironclaw_[a-z_]+";
const LABEL = '[a-z_]+="(?:[ !#-\\[\\]-~]|\\\\[\\\\"n])*"';
const VALUE = "-?[0-9.]+(?:e[-+]?[0-9]+)?|[-+]Inf|Na[Nn]";
const SAMPLE = new RegExp(`^(${METRIC})(?:\\{(${LABEL}(?:,${LABEL})*)\\})? (${VALUE})$`);
const COMMENT = new RegExp(`^# (?:HELP (${METRIC}) [ -~]*|TYPE (${METRIC}) (?:counter|gauge|histogram))$`);
const TIME = "ironclaw_time_seconds";
/** As an enrolment names a machine: then its label is the verifier's. */
const MACHINE_NAME = /^[\w.-]{1,64}$/;

export interface Stamp {
  /** Every series gets it as its label `machine`; null for none. */
  readonly machine: string | null;
  /** Seconds since 1970, by the clock of whoever prints. */
  readonly now: number;
}

export function isMachineName(name: string): boolean {
  return MACHINE_NAME.test(name);
}

/**
 * A machine's metrics as its host writes them down: with a label that tells machines apart, and the time, because a file outlives the machine
 * that it is about. A machine is believed in its own numbers only: whatever is no sample of ours, or bears that label or time already,
 * is refused. @throws AgentError ERR_CONTROL_MALFORMED
 */
export function stamp(text: string, { machine, now }: Stamp): string {
  const lines = text.split("\n").filter((line) => line !== "");
  const labelled = lines.map((line, index) => stampLine(line, index + 1, machine));
  const own = [`# HELP ${TIME} When this was printed`, `# TYPE ${TIME} gauge`, sample(TIME, [], machine, `${now}`)];
  return `${[...labelled, ...own].join("\n")}\n`;
}

function stampLine(line: string, number: number, machine: string | null): string {
  const comment = COMMENT.exec(line);
  const found = SAMPLE.exec(line);
  const name = comment?.[1] ?? comment?.[2] ?? found?.[1] ?? TIME;
  if (name === TIME || /(?:^|,)machine="/.test(found?.[2] ?? ""))
    throw new AgentError("ERR_CONTROL_MALFORMED", `metrics, line ${number}`, {
      expected: "a series of the agent's own, without time and name of the machine",
      got: `${line.length} characters`,
    });
  if (found === null) return line;
  return sample(name, found[2] === undefined ? [] : [found[2]], machine, found[3] ?? "");
}

function sample(name: string, labels: readonly string[], machine: string | null, value: string): string {
  const all = [...(machine === null ? [] : [`machine="${machine}"`]), ...labels].join(",");
  return `${name}${all === "" ? "" : `{${all}}`} ${value}`;
}
