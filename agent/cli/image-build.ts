import { resolve } from "node:path";
import { buildImage, type ImageManifest } from "../../vm-images/build.ts";
import { DEFAULT_RECIPE, RECIPE_NAMES } from "../../vm-images/recipes.ts";
import { openSecureBootKeys } from "../../vm-images/secure-boot.ts";
import { IMAGE_VARIANTS } from "../../vm-images/variants.ts";
import type { Command } from "./command.ts";
import { answer } from "./output.ts";

export const command: Command = {
  summary: "build the measured VM's image; the same source, recipe and package lock give the same bytes",
  positionals: [],
  options: {
    variant: { type: "string", value: "NAME", help: "release, demo or dev", required: true },
    recipe: {
      type: "string",
      value: "NAME",
      help: `${RECIPE_NAMES.join(", ")}, or a folder with an image.json (default: ${DEFAULT_RECIPE})`,
    },
    "secure-boot": {
      type: "string",
      value: "DIR",
      help: "sign it with the trial keys in this folder, which are made when it is empty",
    },
    out: { type: "string", value: "DIR", help: "where the image goes", required: true },
    cache: { type: "string", value: "DIR", help: "downloads (default: build/cache)" },
    json: { type: "boolean", help: "print the manifest as JSON" },
  },
  examples: [
    "ironclaw image build --variant release --out build/image/release",
    "ironclaw image build --variant demo --recipe usb --out build/image/demo-usb",
    "ironclaw image build --variant release --recipe ./my-image --out my-image/out",
    "ironclaw image build --variant release --secure-boot build/keys/secure-boot --out build/image/release-signed",
  ],
  run: async (input, io) => {
    const recipe = input.optional("recipe");
    const keys = input.optional("secure-boot");
    const { manifest } = await buildImage({
      variant: input.choice("variant", IMAGE_VARIANTS),
      ...(recipe === undefined ? {} : { recipe }),
      ...(keys === undefined ? {} : { secureBoot: await openSecureBootKeys(resolve(keys)) }),
      outDirectory: resolve(input.text("out")),
      cacheDirectory: resolve(input.optional("cache") ?? "build/cache"),
      onStep: (step) => io.phase(step),
    });
    const lines = Object.entries(manifest.files).map(([name, digest]) => `${digest}  ${name}`);
    const note = manifest.unlocked ? " (unlocked: a locked package was gone)" : "";
    answer(input, io, manifest, [...lines, ...describe(manifest), `image ${manifest.id}${note}`].join("\n"));
    return 0;
  },
};

function describe({ sizes, root, shipped, initrd, exposure }: ImageManifest): readonly string[] {
  const megabytes = (bytes: number): string => `${(bytes / 1e6).toFixed(1)} MB`;
  const exposed = [...exposure.setuid, ...exposure.worldWritable];
  return [
    ...Object.entries(sizes).map(([name, bytes]) => `${name}: ${megabytes(bytes)}`),
    `root: ${root.files.length} files; Debian packages: ${shipped.length}; kernel modules: ${initrd.length - 1}`,
    `set-uid files, files that everybody may write: ${exposed.join(" ") || "none"}`,
  ];
}
