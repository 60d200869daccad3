import { type FlagName, flagNames } from "../../attest/service/index.ts";
import { type Command, type CommandInput, UsageError } from "./command.ts";
import { answer, JSON_OPTION } from "./output.ts";
import { machineName, OPERATOR_OPTION, openService, operatorToken, SERVICE_OPTIONS } from "./verifier-options.ts";

export const command: Command = {
  summary: "take flags of a machine away at a verifier service, once somebody has looked at what they say",
  positionals: ["NAME"],
  options: {
    flag: { type: "string", value: "FLAG", help: flagNames.join(", "), required: true, multiple: true },
    ...SERVICE_OPTIONS,
    token: OPERATOR_OPTION,
    json: JSON_OPTION,
  },
  examples: [
    "ironclaw verifier clear vm-1 --flag rebooted --flag changed --to unix:/run/verifier.sock --token operator.token",
  ],
  run: async (input, io) => {
    const name = machineName(input.positional(0));
    const cleared = readFlags(input);
    const flags = await (await openService(input)).clearFlags(name, cleared, await operatorToken(input));
    answer(
      input,
      io,
      { name, flags },
      `${name}: ${flags.length === 0 ? "no flag is left" : `left: ${flags.join(", ")}`}`,
    );
    return 0;
  },
};

function readFlags(input: CommandInput): readonly FlagName[] {
  return input.list("flag").map((text) => {
    const flag = flagNames.find((name) => name === text);
    if (flag === undefined) throw new UsageError("--flag", { expected: flagNames.join(", "), got: text });
    return flag;
  });
}
