import { type Command, UsageError } from "./command.ts";
import { openMachine } from "./machine-ports.ts";
import { answer, JSON_OPTION, renderJson } from "./output.ts";

export const command: Command = {
  summary: "stop scopes of a running machine, or everything, at once and over reboots; or say what is stopped",
  positionals: [],
  options: {
    machine: { type: "string", value: "DIR", help: "the running machine's directory of port sockets", required: true },
    scope: { type: "string", value: "NAME", help: "a scope to which the policy gives a freezeBit", multiple: true },
    all: { type: "boolean", help: "everything; the next boot unseals nothing" },
    status: { type: "boolean", help: "what is frozen now, and what the next boot begins with; changes nothing" },
    json: JSON_OPTION,
  },
  examples: [
    "ironclaw freeze --machine /tmp/ironclaw-dev-x1/vm --scope release-signing",
    "ironclaw freeze --machine /tmp/ironclaw-dev-x1/vm --all",
    "ironclaw freeze --machine /tmp/ironclaw-dev-x1/vm --status --json",
  ],
  run: async (input, io) => {
    const [all, status, scopes] = [input.flag("all"), input.flag("status"), input.list("scope")];
    if ([all, status, scopes.length > 0].filter(Boolean).length !== 1)
      throw new UsageError("freeze", { expected: "one of --scope, --all and --status", got: "none or several" });
    const control = await openMachine(input.text("machine"));
    try {
      const target = all ? { all: true } : { scopes };
      const frozen = await (status ? control.sealing("freeze-status") : control.sealing("freeze", target));
      answer(input, io, frozen, renderFrozen(frozen));
      return 0;
    } finally {
      control.close();
    }
  },
};

/** What the machine says; shown as text only. */
function renderFrozen({ all, scopes, bits, freezeBits }: Readonly<Record<string, unknown>>): string {
  const named = Array.isArray(scopes) ? scopes.map(String).join(", ") : "";
  return [
    `frozen in this boot   ${all === true ? "everything" : named || "nothing"}`,
    `freeze bits           ${bits === null ? "not there: the next boot serves nothing" : String(bits)}`,
    `bits of the scopes    ${renderJson(freezeBits).replaceAll(/\s+/g, " ")}`,
  ].join("\n");
}
