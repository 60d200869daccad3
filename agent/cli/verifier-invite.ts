import { writeTokenFile } from "../../attest/service/index.ts";
import type { Command } from "./command.ts";
import { answer, JSON_OPTION } from "./output.ts";
import { machineName, OPERATOR_OPTION, openService, operatorToken, SERVICE_OPTIONS } from "./verifier-options.ts";

const DEFAULT_HOURS = 24;

export const command: Command = {
  summary: "ask a verifier service for a one-time token with which a machine of this name enrols",
  positionals: ["NAME"],
  options: {
    ...SERVICE_OPTIONS,
    token: OPERATOR_OPTION,
    hours: { type: "string", value: "N", help: `how long it may be used (default ${DEFAULT_HOURS})` },
    out: { type: "string", value: "FILE", help: "new file for the token, mode 0600", required: true },
    json: JSON_OPTION,
  },
  examples: ["ironclaw verifier invite vm-1 --to unix:/run/verifier.sock --token operator.token --out vm-1.token"],
  run: async (input, io) => {
    const name = machineName(input.positional(0));
    const operator = await operatorToken(input);
    const seconds = 3600 * (input.integer("hours", 1, 8760) ?? DEFAULT_HOURS);
    const { token, expires } = await (await openService(input)).invite(name, seconds, operator);
    const file = input.text("out");
    await writeTokenFile(file, token);
    answer(input, io, { file, name, expires }, `${file}: ${name} may enrol once, until ${expires}`);
    return 0;
  },
};
