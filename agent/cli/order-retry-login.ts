import type { Command } from "./command.ts";
import { giveOrder, ORDER_OPTIONS, requireRecord } from "./order-options.ts";
import { answer, JSON_OPTION } from "./output.ts";

export const command: Command = {
  summary: "allow one more try with a PIN that was tried and not accepted; the next boot tries it, once",
  positionals: [],
  options: {
    name: { type: "string", value: "NAME", help: "the credential (default hsm-pin)" },
    ...ORDER_OPTIONS,
    json: JSON_OPTION,
  },
  examples: ["ironclaw order retry-login --machine /tmp/ironclaw-dev-x1/vm --operator operator.pem"],
  run: async (input, io) => {
    const name = input.optional("name") ?? "hsm-pin";
    io.phase("asking for the TPM's records, signing the order, handing it in");
    const order = await giveOrder(input, ({ ekName, login }) => {
      const record = requireRecord(`login record of ${name}`, login(name));
      return { version: 1, order: "retry-login", ekName, name, record };
    });
    answer(input, io, order, `${name}: one more try is allowed, at the next boot`);
    return 0;
  },
};
