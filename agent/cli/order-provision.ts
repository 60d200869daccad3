import type { Command } from "./command.ts";
import { giveOrder, ORDER_OPTIONS } from "./order-options.ts";
import { answer, JSON_OPTION } from "./output.ts";

const { operator, machine } = ORDER_OPTIONS;

export const command: Command = {
  summary: "have a running machine set up its TPM again after somebody cleared it; the next boot unseals",
  positionals: [],
  options: { operator, machine: { ...machine, required: true }, json: JSON_OPTION },
  examples: ["ironclaw order provision --machine /tmp/ironclaw-dev-x1/vm --operator operator.pem"],
  run: async (input, io) => {
    io.phase("asking for the TPM's records, signing the order, handing it in");
    const order = await giveOrder(input, ({ ekName, boot }) => ({ version: 1, order: "provision", ekName, boot }));
    answer(input, io, order, "counter and records are defined again; reboot the machine");
    return 0;
  },
};
