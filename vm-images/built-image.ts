import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import { IronclawError, parseJson, sha256Hex } from "../policy/index.ts";
import { ImageError } from "./errors.ts";
import { GuestTree, requireGuestFile } from "./guest-tree.ts";
import { PROGRAMS } from "./pin-module.ts";
import { IMAGE_VARIANTS, type ImageVariant } from "./variants.ts";

/** What a release says about an image, read from the directory that `buildImage` filled. Nothing is built or run. */
export interface BuiltImage {
  readonly id: string;
  readonly variant: ImageVariant;
  readonly uki: Uint8Array;
  /** For an image that is signed: PCR 7 of a machine whose firmware verifies it. */
  readonly secureBoot: { readonly pcr7: { readonly sha256: string; readonly sha384: string } } | null;
  /** The agent's configuration and the shim program in the measured root. */
  readonly config: Uint8Array;
  readonly shim: Uint8Array;
  readonly treeDirectory: string;
}

const digest = z.string().regex(/^[0-9a-f]{64}$/);
const manifestSchema = z.object({
  manifest: z.object({
    id: digest,
    variant: z.enum(IMAGE_VARIANTS),
    files: z.object({ "uki.efi": digest }),
    secureBoot: z
      .object({ pcr7: z.object({ sha256: digest, sha384: z.string().regex(/^[0-9a-f]{96}$/) }) })
      .nullable()
      .default(null),
  }),
});
const MAX_MANIFEST = 1 << 20;

/**
 * Checks that the kernel image is the one of the manifest; the root's files are taken from `tree/`, which nothing signs.
 * @throws ImageError ERR_IMAGE_SOURCE when a file is missing, ERR_IMAGE_MALFORMED when it is not what the manifest says
 */
export async function readBuiltImage(directory: string): Promise<BuiltImage> {
  const { id, variant, files, secureBoot } = parseManifest(await readPart(directory, "manifest.json"));
  const uki = await readPart(directory, "uki.efi");
  const got = sha256Hex(uki);
  if (got !== files["uki.efi"])
    throw new ImageError("ERR_IMAGE_MALFORMED", "image uki.efi: sha256", {
      expected: files["uki.efi"],
      got,
      hint: "build the image again",
    });
  const treeDirectory = join(directory, "tree");
  const tree = new GuestTree(treeDirectory, []);
  return {
    ...{ id, variant, uki, secureBoot, treeDirectory },
    config: requireGuestFile(tree, "/etc/ironclaw/agent.json"),
    shim: requireGuestFile(tree, `${PROGRAMS}/shim`),
  };
}

async function readPart(directory: string, name: string): Promise<Uint8Array> {
  try {
    return new Uint8Array(await readFile(join(directory, name)));
  } catch (cause) {
    throw new ImageError("ERR_IMAGE_SOURCE", `image ${join(directory, name)}`, {
      expected: "a file",
      got: "none",
      hint: "the directory is the one that `ironclaw image build --out` filled",
      cause,
    });
  }
}

function parseManifest(bytes: Uint8Array): z.infer<typeof manifestSchema>["manifest"] {
  const malformed = (cause?: unknown) =>
    new ImageError("ERR_IMAGE_MALFORMED", "image manifest.json", {
      expected: "the manifest that `ironclaw image build` writes",
      got: "another document",
      cause,
    });
  try {
    const json = parseJson(bytes, "manifest", { maxBytes: MAX_MANIFEST, maxDepth: 6 });
    const parsed = manifestSchema.safeParse(json);
    if (parsed.success) return parsed.data.manifest;
  } catch (cause) {
    throw cause instanceof IronclawError ? malformed(cause) : cause;
  }
  throw malformed();
}
