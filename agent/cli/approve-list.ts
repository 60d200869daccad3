import { MACHINE_OPTION, readRequests, type ShownRequest, withMachine } from "./approve-requests.ts";
import type { Command } from "./command.ts";
import { answer, JSON_OPTION } from "./output.ts";

export const command: Command = {
  summary: "what waits for approval on a running machine, the oldest first",
  positionals: [],
  options: { machine: MACHINE_OPTION, json: JSON_OPTION },
  examples: ["ironclaw approve list --machine /tmp/ironclaw-dev-x1/vm"],
  run: async (input, io) => {
    const shown = await withMachine(input, readRequests);
    const requests = shown.map(({ bytes: _, ...facts }) => facts);
    answer(input, io, { requests }, shown.map(lineOf).join("\n") || "nothing waits for approval");
    return 0;
  },
};

function lineOf({ request, text, approvers, required, secondsLeft }: ShownRequest): string {
  const what = text.for === "window" ? `a window until ${text.until}` : `${text.operation} with ${text.key}`;
  const given = `${approvers.length} of ${required}${approvers.length === 0 ? "" : ` (${approvers.join(", ")})`}`;
  return `${request}  ${text.scope}: ${text.caller}, ${what}; ${given}, ${secondsLeft} s left`;
}
