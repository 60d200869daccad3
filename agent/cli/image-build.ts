import { resolve } from "node:path";
import { buildImage } from "../../vm-images/build.ts";
import { DEFAULT_RECIPE, RECIPE_NAMES } from "../../vm-images/recipes.ts";
import type { Command } from "./command.ts";
import { answer } from "./output.ts";

export const command: Command = {
  summary: "build the measured VM's image; the same source and package lock give the same bytes",
  positionals: [],
  options: {
    variant: { type: "string", value: "NAME", help: "demo or dev", required: true },
    recipe: { type: "string", value: "NAME", help: `kernel: ${RECIPE_NAMES.join(", ")} (default: ${DEFAULT_RECIPE})` },
    out: { type: "string", value: "DIR", help: "where the image goes", required: true },
    cache: { type: "string", value: "DIR", help: "downloads (default: build/cache)" },
    json: { type: "boolean", help: "print the manifest as JSON" },
  },
  examples: [
    "ironclaw image build --variant demo --out build/image/demo",
    "ironclaw image build --variant demo --recipe usb --out build/image/demo-usb",
  ],
  run: async (input, io) => {
    const { manifest } = await buildImage({
      variant: input.choice("variant", ["demo", "dev"]),
      recipe: input.optional("recipe") === undefined ? DEFAULT_RECIPE : input.choice("recipe", RECIPE_NAMES),
      outDirectory: resolve(input.text("out")),
      cacheDirectory: resolve(input.optional("cache") ?? "build/cache"),
      onStep: (step) => io.phase(step),
    });
    const lines = Object.entries(manifest.files).map(([name, digest]) => `${digest}  ${name}`);
    const note = manifest.unlocked ? " (unlocked: a locked package was gone)" : "";
    answer(input, io, manifest, [...lines, `image ${manifest.id}${note}`].join("\n"));
    return 0;
  },
};
