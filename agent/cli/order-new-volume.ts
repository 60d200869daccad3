import type { Command } from "./command.ts";
import { giveOrder, ORDER_OPTIONS, requireRecord } from "./order-options.ts";
import { answer, JSON_OPTION } from "./output.ts";

export const command: Command = {
  summary: "let a machine make a new state volume, on a blank disk, in place of one that is lost",
  positionals: [],
  options: { ...ORDER_OPTIONS, json: JSON_OPTION },
  examples: ["ironclaw order new-volume --machine /tmp/ironclaw-dev-x1/vm --operator operator.pem"],
  run: async (input, io) => {
    io.phase("asking for the TPM's records, signing the order, handing it in");
    const order = await giveOrder(input, ({ ekName, anchor }) => ({
      version: 1,
      order: "new-volume",
      ekName,
      anchor: requireRecord("audit anchor", anchor),
    }));
    answer(input, io, order, "the next boot makes a new state volume on a blank disk");
    return 0;
  },
};
