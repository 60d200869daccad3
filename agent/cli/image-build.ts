import { buildImage } from "../../vm-images/build.ts";
import { type Command, UsageError } from "./command.ts";

export const command: Command = {
  summary: "build the measured VM's image; the same source and package lock give the same bytes",
  positionals: [],
  options: {
    variant: { type: "string", value: "NAME", help: "demo or dev", required: true },
    out: { type: "string", value: "DIR", help: "where the image goes", required: true },
    cache: { type: "string", value: "DIR", help: "downloads (default: build/cache)" },
    json: { type: "boolean", help: "print the manifest as JSON" },
  },
  examples: ["ironclaw image build --variant demo --out build/image/demo"],
  run: async (input, io) => {
    const variant = input.text("variant");
    if (variant !== "demo" && variant !== "dev")
      throw new UsageError("--variant", { expected: "demo or dev", got: variant });
    const image = await buildImage({
      variant,
      outDirectory: input.text("out"),
      cacheDirectory: input.optional("cache") ?? "build/cache",
      onStep: (step) => io.complain(`image: ${step}`),
    });
    const { manifest } = image;
    if (input.flag("json")) io.print(JSON.stringify(manifest, null, 2));
    else {
      for (const [name, digest] of Object.entries(manifest.files)) io.print(`${digest}  ${name}`);
      io.print(`image ${manifest.id}${manifest.unlocked ? " (unlocked: a locked package was gone)" : ""}`);
    }
    return 0;
  },
};
