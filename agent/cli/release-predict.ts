import { fromHex, parsePolicy } from "../../policy/index.ts";
import { parseConfig } from "../config.ts";
import { expectedLaunchEvents } from "../launch/expected-events.ts";
import { predictRelease } from "../launch/prediction.ts";
import type { Command } from "./command.ts";
import { readInput } from "./files.ts";

export const command: Command = {
  summary: "compute every PCR a release binds: the boot PCRs of an image, the agent PCR of a policy on it",
  positionals: [],
  options: {
    uki: { type: "string", value: "FILE", help: "the image's unified kernel image", required: true },
    config: { type: "string", value: "FILE", help: "the agent's configuration in that image", required: true },
    shim: {
      type: "string",
      value: "SHA256",
      help: "digest of the shim in that image (its manifest has it)",
      required: true,
    },
    anchors: { type: "string", value: "FILE", help: "trust anchors of the cabinet", required: true },
    policy: { type: "string", value: "FILE", help: "policy of the cabinet", required: true },
  },
  examples: [
    "ironclaw release predict --uki uki.efi --config agent.json --shim 4f2c... --anchors anchors.json --policy policy.json",
  ],
  run: async (input, io) => {
    const policyBytes = await readInput(input.text("policy"), "policy");
    const configBytes = await readInput(input.text("config"), "agent configuration");
    const anchorsBytes = await readInput(input.text("anchors"), "anchors");
    const documents = {
      config: parseConfig(configBytes),
      configBytes,
      anchorsBytes,
      policy: parsePolicy(policyBytes),
      policyBytes,
    };
    const events = expectedLaunchEvents(documents, fromHex(input.text("shim"), "--shim"));
    io.print(JSON.stringify(predictRelease(await readInput(input.text("uki"), "kernel image"), events), null, 2));
    return 0;
  },
};
