import { z } from "zod";
import { adviceFor } from "../../seal/index.ts";
import { AgentError } from "../errors.ts";
import type { Command } from "./command.ts";
import { MACHINE_OPTION, withMachine } from "./machine-ports.ts";
import { answer, JSON_OPTION } from "./output.ts";

export const command: Command = {
  summary:
    "what a running machine says of itself: state and reasons, tokens, what is frozen (exit code 1 unless it serves all of it)",
  positionals: [],
  options: { machine: MACHINE_OPTION, json: JSON_OPTION },
  examples: [
    "ironclaw status --machine /tmp/ironclaw-dev-x1/vm",
    "ironclaw status --machine /tmp/ironclaw-dev-x1/vm --json",
  ],
  run: (input, io) =>
    withMachine(input.text("machine"), async (control) => {
      const said = await control.status();
      const status = readStatus(said);
      const serves = isServing(status);
      answer(input, io, { serves, ...said }, render(status));
      return serves ? 0 : 1;
    }),
};

const text = z.string().max(8_192);
const reason = z.object({ code: text, item: text, expected: text, got: text });

/** Of a machine's answer, what is shown. Older agents say nothing of what is frozen. */
const status = z.object({
  state: text,
  reasons: z.array(reason).max(1_024).default([]),
  devices: z.array(text).max(1_024).nullable().default(null),
  phases: z
    .array(z.object({ phase: text, at: z.number() }))
    .max(64)
    .default([]),
  tokens: z
    .array(
      z.object({
        name: text,
        served: z.boolean(),
        waiting: z.number(),
        shims: z.array(z.object({ id: z.number(), role: text })).max(64),
        reasons: z.array(reason).max(64),
      }),
    )
    .max(64)
    .default([]),
  violations: z.record(text, z.number()).default({}),
  frozen: z
    .object({ all: z.boolean(), scopes: z.array(text).max(256) })
    .nullable()
    .default(null),
});
type Status = z.infer<typeof status>;

function readStatus(said: unknown): Status {
  const read = status.safeParse(said);
  if (read.success) return read.data;
  throw new AgentError("ERR_CONTROL_MALFORMED", "status", { expected: "an answer of this format", got: "another" });
}

/** Everything that the policy promises: the machine, each token, and nothing frozen as a whole. */
function isServing({ state, tokens, frozen }: Status): boolean {
  return state === "serving" && tokens.every(({ served }) => served) && frozen?.all !== true;
}

function render({ state, reasons, devices, phases, tokens, violations, frozen }: Status): string {
  const attempts = Object.entries(violations).map(([call, count]) => `${call} ${count}`);
  return [
    `state       ${state}`,
    ...reasons.flatMap(({ code, item, expected, got }) => [
      `  ${code}: ${item}: expected ${expected}, got ${got}`,
      ...(adviceFor(code) === undefined ? [] : [`    ${adviceFor(code)}`]),
    ]),
    ...tokens.map(
      ({ name, served, waiting, shims, reasons: why }) =>
        `token       ${name}: ${served ? "served" : "not served"}, ${waiting} waiting, shims ${shims.map(({ id, role }) => `${id} ${role}`).join(", ")}${why.map(({ code }) => `, ${code}`).join("")}`,
    ),
    `frozen      ${frozenText(frozen)}`,
    `attempts    ${attempts.join(", ") || "none"}`,
    `devices     ${devices === null ? "cannot be listed" : devices.join(" ") || "none"}`,
    `launch      ${phases.map(({ phase, at }) => `${phase} ${Math.round(at)} ms`).join(", ")}`,
  ].join("\n");
}

function frozenText(frozen: Status["frozen"]): string {
  if (frozen === null) return "not known while nothing is served: `ironclaw freeze --status` has the TPM's bits";
  return frozen.all ? "everything" : frozen.scopes.join(", ") || "nothing";
}
