import { stat } from "node:fs/promises";
import { parsePe } from "../../attest/index.ts";
import { type BuiltImage, readBuiltImage } from "../../vm-images/built-image.ts";
import { AgentError } from "../errors.ts";
import { predictBoot, type ReleasePrediction } from "../launch/prediction.ts";
import { readCabinet } from "./cabinet-slots.ts";
import { type Command, type CommandInput, UsageError } from "./command.ts";
import { readInput } from "./files.ts";
import { type MeasuredDocuments, predictImage, renderPcrs } from "./image-prediction.ts";
import { answer } from "./output.ts";

export const command: Command = {
  summary:
    "compute the PCRs of an image without booting it: 4, 9, 11 and 12, 7 if it is signed, and the agent's for a cabinet or its documents",
  positionals: ["IMAGE"],
  options: {
    cabinet: { type: "string", value: "FILE", help: "cabinet whose anchors and policy the agent measures" },
    anchors: { type: "string", value: "FILE", help: "or its trust anchors" },
    policy: { type: "string", value: "FILE", help: "and its policy" },
    json: { type: "boolean", help: "print both banks as JSON" },
  },
  examples: [
    "ironclaw image predict build/image/demo/uki.efi",
    "ironclaw image predict build/image/release --cabinet cabinet.img",
    "ironclaw image predict build/image/release --anchors anchors.json --policy policy.json --json",
  ],
  run: async (input, io) => {
    const path = input.positional(0);
    const documents = await readDocuments(input);
    const folder = (await stat(path).catch(() => null))?.isDirectory() ?? false;
    if (documents !== null && !folder) {
      throw new UsageError("IMAGE", { expected: "a directory that `image build --out` filled", got: "a file" });
    }
    const pcrs = folder ? predictFolder(await readBuiltImage(path), documents) : await predictFile(path);
    answer(input, io, pcrs, renderPcrs(pcrs));
    return 0;
  },
};

function predictFolder(image: BuiltImage, documents: MeasuredDocuments | null): ReleasePrediction["pcrs"] {
  return documents === null ? predictBoot(image) : predictImage(image, documents).pcrs;
}

/** @throws UsageError for a signed one: whose firmware verifies it, and what PCR 7 then is, stands in the image's manifest only */
async function predictFile(path: string): Promise<ReleasePrediction["pcrs"]> {
  const uki = await readInput(path, "kernel image");
  if (parsePe(uki).certificateSize === 0) return predictBoot({ uki, secureBoot: null });
  throw new UsageError("IMAGE", {
    expected: "the directory of a signed image, which has its PCR 7; PCR 4 is another one with Secure Boot, too",
    got: "its kernel image alone",
  });
}

function slotOf(slots: ReadonlyMap<string, Uint8Array>, name: string): Uint8Array {
  const bytes = slots.get(name);
  if (bytes !== undefined) return bytes;
  throw new AgentError("ERR_ENVIRONMENT", `cabinet slot ${name}`, {
    expected: "a document",
    got: "none",
    hint: "ironclaw cabinet put fills it",
  });
}

async function readDocuments(input: CommandInput): Promise<MeasuredDocuments | null> {
  const [cabinet, anchors, policy] = ["cabinet", "anchors", "policy"].map((name) => input.optional(name));
  if (cabinet !== undefined) {
    if (anchors !== undefined || policy !== undefined)
      throw new UsageError("--cabinet", { expected: "neither --anchors nor --policy beside it", got: "one" });
    const slots = readCabinet(cabinet);
    return { anchorsBytes: slotOf(slots, "anchors"), policyBytes: slotOf(slots, "policy") };
  }
  if (anchors === undefined && policy === undefined) return null;
  return {
    anchorsBytes: await readInput(input.text("anchors"), "anchors"),
    policyBytes: await readInput(input.text("policy"), "policy"),
  };
}
