import type { Command } from "./command.ts";
import { answer, JSON_OPTION } from "./output.ts";
import { machineName, OPERATOR_OPTION, openService, operatorToken, SERVICE_OPTIONS } from "./verifier-options.ts";

export const command: Command = {
  summary: "retire a machine at a verifier service: it is asked for nothing more, and its name can be enrolled again",
  positionals: ["NAME"],
  options: { ...SERVICE_OPTIONS, token: OPERATOR_OPTION, json: JSON_OPTION },
  examples: ["ironclaw verifier retire vm-1 --to unix:/run/verifier.sock --token operator.token"],
  run: async (input, io) => {
    const name = machineName(input.positional(0));
    await (await openService(input)).retire(name, await operatorToken(input));
    answer(input, io, { name }, `${name} is retired`);
    return 0;
  },
};
