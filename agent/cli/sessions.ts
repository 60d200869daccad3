import { setTimeout as delay } from "node:timers/promises";
import type { ControlClient } from "../../vm-images/control-client.ts";
import type { Command } from "./command.ts";
import { MACHINE_OPTION, withMachine } from "./machine-ports.ts";
import { answer, JSON_OPTION } from "./output.ts";
import { readSessions, sessionTable } from "./session-columns.ts";

/** How often `--watch` looks. */
const INTERVAL = 2_000;

export const command: Command = {
  summary:
    "who is connected to which scope of a running machine: caller, operations, refusals, rate left, what it waits for",
  positionals: [],
  options: {
    machine: MACHINE_OPTION,
    scope: { type: "string", value: "NAME", help: "of this scope alone" },
    watch: { type: "boolean", help: "again every two seconds, until it is interrupted" },
    json: JSON_OPTION,
  },
  examples: [
    "ironclaw sessions --machine /tmp/ironclaw-dev-x1/vm",
    "ironclaw sessions --machine /tmp/ironclaw-dev-x1/vm --scope release-signing --json",
  ],
  run: (input, io) =>
    withMachine(input.text("machine"), async (control): Promise<0> => {
      const scope = input.optional("scope");
      do {
        const found = await ask(control, scope);
        answer(input, io, found, sessionTable(found.sessions, found.more));
        if (input.flag("watch")) await delay(INTERVAL);
      } while (input.flag("watch"));
      return 0;
    }),
};

async function ask(control: ControlClient, scope: string | undefined) {
  return readSessions(await control.operating("sessions", scope === undefined ? {} : { scope }));
}
