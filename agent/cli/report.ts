import { defaultQuotePcrs } from "../../attest/index.ts";
import type { Command } from "./command.ts";
import { openMachine } from "./machine-ports.ts";
import { deliver, JSON_OPTION } from "./output.ts";

export const NONCE_BYTES = 32;

export const command: Command = {
  summary: "ask a running machine for a report, over its control port",
  positionals: [],
  options: {
    machine: { type: "string", value: "DIR", help: "the running machine's directory of port sockets", required: true },
    nonce: { type: "string", value: "HEX", help: "32 fresh random bytes of the verifier", required: true },
    bank: { type: "string", value: "NAME", help: "sha256 (default) or sha384" },
    out: { type: "string", value: "FILE", help: "the report", required: true },
    json: JSON_OPTION,
  },
  examples: ["ironclaw report --machine /tmp/ironclaw-dev-x1/vm --nonce $(openssl rand -hex 32) --out report.cbor"],
  run: async (input, io) => {
    const bank = input.choice("bank", ["sha256", "sha384"]);
    const nonce = input.hex("nonce", NONCE_BYTES);
    const control = await openMachine(input.text("machine"));
    try {
      const report = await control.challenge({ nonce, bank, pcrs: defaultQuotePcrs });
      await deliver(input, io, report, { bank, nonce: input.text("nonce") }, `report of ${report.length} bytes`);
      return 0;
    } finally {
      control.close();
    }
  },
};
