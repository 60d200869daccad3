import {
  bootPhases,
  firmwareReferencePcrs,
  firmwareReferenceValues,
  type LoaderBoot,
  parseFirmwareLog,
  parsePe,
} from "../../attest/index.ts";
import { readBuiltImage } from "../../vm-images/built-image.ts";
import { readInstalledSystem, readPhases } from "../../vm-images/installed-system.ts";
import { parseConfig } from "../config.ts";
import { bootExtends } from "../launch/prediction.ts";
import { type Command, type CommandInput, UsageError } from "./command.ts";
import { readInput, writeOutput } from "./files.ts";
import { type PredictedSystem, predictImage } from "./image-prediction.ts";
import { renderJson } from "./output.ts";
import type { Prediction } from "./prediction.ts";

export const command: Command = {
  summary: "compute every PCR a release binds: the boot PCRs of an image, the agent PCR of a policy on it",
  positionals: [],
  options: {
    image: { type: "string", value: "DIR", help: "what `image build --out` filled" },
    installed: {
      type: "string",
      value: "DIR",
      help: "instead of an image: root of a system with the package, `/` there",
    },
    uki: { type: "string", value: "FILE", help: "with --installed: the unified kernel image that its firmware starts" },
    phases: {
      type: "string",
      value: "LIST",
      help: `with --installed: boot phases that systemd measures, of ${bootPhases.join(",")} (default sysinit,ready)`,
    },
    "secure-boot": {
      type: "string",
      value: "on|off",
      help: "with --installed and a signed kernel image: whether its firmware verifies it",
    },
    "boot-log": {
      type: "string",
      value: "FILE",
      help: "with --installed, where a boot loader starts the kernel image: firmware event log of such a boot of this machine",
    },
    "booted-uki": {
      type: "string",
      value: "FILE",
      help: "with --boot-log: the kernel image of that boot, if it was another one than --uki",
    },
    anchors: { type: "string", value: "FILE", help: "trust anchors of the cabinet", required: true },
    policy: { type: "string", value: "FILE", help: "policy of the cabinet", required: true },
    "firmware-log": {
      type: "string",
      value: "FILE",
      help: "firmware event log of a machine of this kind (`report --export`): verifiers then compare firmware PCRs too",
    },
    "firmware-pcrs": {
      type: "string",
      value: "LIST",
      help: `which of them (default ${firmwareReferencePcrs.join(",")})`,
    },
    out: { type: "string", value: "FILE", help: "the prediction (default: standard output)" },
  },
  examples: [
    "ironclaw release predict --image build/image/demo --anchors anchors.json --policy policy.json --out prediction.json",
    "ironclaw release predict --installed / --uki /boot/efi/EFI/Linux/debian.efi --anchors anchors.json --policy policy.json --out prediction.json",
    "ironclaw release predict --installed / --uki /boot/debian.efi --boot-log /run/ironclaw/firmware-event-log --anchors anchors.json --policy policy.json --out prediction.json",
    "ironclaw release predict --image build/image/demo --anchors anchors.json --policy policy.json --firmware-log report/firmware-log.bin --firmware-pcrs 0,2,7 --out prediction.json",
  ],
  run: async (input, io) => {
    io.phase("computing the image's PCRs");
    const image = await readSystem(input);
    const policyBytes = await readInput(input.text("policy"), "policy");
    const anchorsBytes = await readInput(input.text("anchors"), "anchors");
    const { pcrs, events } = predictImage(image, { anchorsBytes, policyBytes });
    const firmware = await readFirmware(input);
    const prediction: Prediction = {
      image: { id: image.id, variant: image.variant },
      pcrs: {
        sha256: { ...pcrs.sha256, ...firmware.sha256 },
        sha384: { ...pcrs.sha384, ...firmware.sha384 },
      },
      boot: [...bootExtends(image)],
      events,
    };
    const out = input.optional("out");
    if (out === undefined) io.print(renderJson(prediction));
    else await writeOutput(out, `${renderJson(prediction)}\n`);
    return 0;
  },
};

type NamedSystem = PredictedSystem & Pick<Prediction["image"], "id" | "variant">;

/** Options that only say how an installed system boots. */
const OF_INSTALLED = ["installed", "uki", "phases", "secure-boot", "boot-log", "booted-uki"] as const;

async function readSystem(input: CommandInput): Promise<NamedSystem> {
  const [image, root, uki] = [input.optional("image"), input.optional("installed"), input.optional("uki")];
  const given = OF_INSTALLED.filter((name) => input.optional(name) !== undefined).map((name) => `--${name}`);
  const list = input.optional("phases");
  if (image !== undefined && given.length === 0) return readBuiltImage(image);
  if (image !== undefined || root === undefined || uki === undefined) {
    const got = [...(image === undefined ? [] : ["--image"]), ...given].join(" ") || "neither";
    throw new UsageError("what is booted", { expected: "--image, or --installed with --uki", got });
  }
  const phases = readPhases(list ?? "sysinit,ready");
  if (phases === null)
    throw new UsageError("--phases", { expected: `of ${bootPhases.join(",")}, in this order`, got: list ?? "" });
  const system = await readInstalledSystem({ root, uki, phases });
  // A report of an agent that takes itself for an image's could be signed as one.
  if (parseConfig(system.config).system === "installed")
    return {
      ...system,
      ...(await readLoader(input, system.uki)),
      secureBoot: isVerified(input, system.uki) ? { pcr7: null } : null,
    };
  throw new UsageError("--installed", { expected: "a configuration with `system`: installed", got: "an image's" });
}

/**
 * With Secure Boot the stub vouches for the kernel in it, and PCR 4 has one event less. A signature alone does not say that anybody looks
 * at it, so a person has to.
 */
function isVerified(input: CommandInput, uki: Uint8Array): boolean {
  const said = input.optional("secure-boot") === undefined ? null : input.choice("secure-boot", ["on", "off"]);
  const signed = parsePe(uki).certificateSize > 0;
  const got = `a kernel image ${signed ? "with" : "without"} a signature`;
  if (signed && said === null) {
    const hint = "`mokutil --sb-state` on the machine says which; verifiers compare PCR 7 only with --firmware-log";
    throw new UsageError("--secure-boot", { expected: "on or off", got: `${got}, and neither`, hint });
  }
  if (!signed && said === "on")
    throw new UsageError("--secure-boot on", { expected: "a kernel image that the firmware would start", got });
  return said === "on";
}

async function readLoader(input: CommandInput, uki: Uint8Array): Promise<{ readonly loader?: LoaderBoot }> {
  const [log, booted] = [input.optional("boot-log"), input.optional("booted-uki")];
  if (log === undefined && booted === undefined) return {};
  if (log === undefined) throw new UsageError("--booted-uki", { expected: "--boot-log too", got: "none" });
  return {
    loader: {
      log: parseFirmwareLog(await readInput(log, "firmware log")),
      uki: booted === undefined ? uki : await readInput(booted, "kernel image"),
    },
  };
}

async function readFirmware(input: CommandInput): Promise<ReturnType<typeof firmwareReferenceValues>> {
  const file = input.optional("firmware-log");
  const list = input.optional("firmware-pcrs");
  if (file !== undefined) return firmwareReferenceValues(await readInput(file, "firmware log"), readPcrs(list));
  if (list !== undefined) throw new UsageError("--firmware-pcrs", { expected: "--firmware-log too", got: "none" });
  return { sha256: {}, sha384: {} };
}

function readPcrs(list: string | undefined): readonly number[] {
  if (list === undefined) return firmwareReferencePcrs;
  const pcrs = list.split(",").map((text) => firmwareReferencePcrs.find((pcr) => `${pcr}` === text));
  const known = pcrs.filter((pcr) => pcr !== undefined);
  if (known.length === pcrs.length && new Set(known).size === known.length) return known;
  throw new UsageError("--firmware-pcrs", { expected: `of ${firmwareReferencePcrs.join(",")}, each once`, got: list });
}
