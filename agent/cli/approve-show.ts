import { COMPARE_OPTIONS, MACHINE_OPTION, misfits, readRequest, withMachine } from "./approve-requests.ts";
import { showRequest } from "./approve-words.ts";
import type { Command } from "./command.ts";
import { writeOutput } from "./files.ts";
import { answer, JSON_OPTION } from "./output.ts";

export const command: Command = {
  summary:
    "exactly the bytes that an approver signs, and what they mean; exit code 1 when it is not what it is compared with",
  positionals: ["ID"],
  options: {
    machine: MACHINE_OPTION,
    ...COMPARE_OPTIONS,
    out: { type: "string", value: "FILE", help: "the bytes, to sign them elsewhere" },
    json: JSON_OPTION,
  },
  examples: [
    "ironclaw approve show 9f0c1d2e3a4b5c6d --machine /tmp/ironclaw-dev-x1/vm --enrolment enrolment.json --input release.tar",
    "ironclaw approve show 9f0c1d2e3a4b5c6d --machine /tmp/ironclaw-dev-x1/vm --out request.txt",
  ],
  run: async (input, io) => {
    const shown = await withMachine(input, (machine) => readRequest(machine, input.positional(0)));
    const found = await misfits(input, shown);
    const { bytes, ...facts } = shown;
    const out = input.optional("out");
    if (out !== undefined) await writeOutput(out, bytes);
    const signed = new TextDecoder().decode(bytes);
    answer(input, io, { ...facts, signed, misfits: found }, showRequest(shown, found, Date.now()).join("\n"));
    return found.length === 0 ? 0 : 1;
  },
};
