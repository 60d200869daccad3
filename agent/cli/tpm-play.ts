import { PROPERTY } from "node-tpm2-tss";
import { isLaunchEventKind, type LaunchEvent, launchEvent, launchEventDigests } from "../../attest/index.ts";
import { AGENT_PCR, fromHex } from "../../policy/index.ts";
import type { MachineTpm } from "../../seal/index.ts";
import { AgentError } from "../errors.ts";
import type { Command } from "./command.ts";
import { readInput } from "./files.ts";
import { answer, JSON_OPTION } from "./output.ts";
import { type Prediction, parsePrediction } from "./prediction.ts";
import { TCTI_OPTION, withTpm } from "./tpm-options.ts";

export const command: Command = {
  summary: "extend a software TPM as a predicted boot and launch would: for trials, in place of a machine",
  positionals: ["PREDICTION"],
  options: {
    tcti: TCTI_OPTION,
    part: { type: "string", value: "PART", help: "all (default), boot or agent" },
    json: JSON_OPTION,
  },
  examples: ["ironclaw tpm play prediction.json --tcti swtpm:path=tpm.sock"],
  run: async (input, io) => {
    const prediction = parsePrediction(await readInput(input.positional(0), "prediction"));
    return withTpm(input, async (tpm): Promise<0> => {
      await requireSoftwareTpm(tpm);
      const part = input.choice("part", ["all", "boot", "agent"]);
      const boot = part === "agent" ? [] : prediction.boot;
      for (const { pcr, sha256, sha384 } of boot) {
        await tpm.pcrExtend(pcr, { sha256: fromHex(sha256), sha384: fromHex(sha384) });
      }
      const events = part === "boot" ? [] : prediction.events;
      await tpm.pcrExtend(AGENT_PCR, ...events.map((event) => launchEventDigests(toLaunchEvent(event))));
      const extended = boot.length + events.length;
      answer(input, io, { extended }, `extended ${extended} measurements`);
      return 0;
    });
  },
};

function toLaunchEvent({ kind, name, sha256 }: Prediction["events"][number]): LaunchEvent {
  if (isLaunchEventKind(kind)) return launchEvent(kind, name, fromHex(sha256, `event ${name}`));
  throw new AgentError("ERR_CONFIG_INVALID", `event ${name}: kind`, { expected: "a kind of launch event", got: kind });
}

/** TPM_PT_MANUFACTURER of libtpms, "IBM\0". */
const LIBTPMS = 0x49424d00;

/** On a machine's own TPM it would use up the boot: what is extended cannot be taken back. */
async function requireSoftwareTpm({ tss }: MachineTpm): Promise<void> {
  const manufacturer = (await tss.properties(PROPERTY.manufacturer, 1)).get(PROPERTY.manufacturer) ?? 0;
  if (manufacturer === LIBTPMS) return;
  throw new AgentError("ERR_ENVIRONMENT", "TPM", {
    expected: "a software TPM",
    got: `manufacturer 0x${manufacturer.toString(16)}`,
    hint: "a real machine measures by booting",
  });
}
