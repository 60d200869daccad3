import { type Command, UsageError } from "./command.ts";
import { MACHINE_OPTION, withMachine } from "./machine-ports.ts";
import { answer, JSON_OPTION } from "./output.ts";
import { readSession } from "./session-columns.ts";

export const command: Command = {
  summary:
    "close one connection of a running machine at once; the audit log says so. Its caller may connect again: to stop a scope, freeze it",
  positionals: ["SESSION"],
  options: { machine: MACHINE_OPTION, json: JSON_OPTION },
  examples: ["ironclaw sessions end 7 --machine /tmp/ironclaw-dev-x1/vm"],
  run: (input, io) =>
    withMachine(input.text("machine"), async (control): Promise<0> => {
      const ended = readSession(await control.operating("end-session", { session: numberOf(input.positional(0)) }));
      const { session, scope, caller, operations } = ended;
      answer(
        input,
        io,
        ended,
        `session ${session} of ${scope} ended: uid ${caller.uid}, pid ${caller.pid}, after ${operations} operations`,
      );
      return 0;
    }),
};

function numberOf(text: string): number {
  if (/^[1-9][0-9]{0,14}$/.test(text)) return Number(text);
  throw new UsageError("SESSION", {
    expected: "a number that `ironclaw sessions` shows",
    got: `${text.length} characters`,
  });
}
