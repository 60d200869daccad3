import { access, constants, readFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import * as z from "zod";
import { IronclawError, parseJson, sha256Hex } from "../policy/index.ts";
import { ImageError } from "./errors.ts";
import { GuestTree, requireGuestFile } from "./guest-tree.ts";
import { PROGRAMS } from "./pin-module.ts";
import { type Firmware, findFirmware, furtherPorts } from "./qemu-args.ts";
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
    workloads: z.array(z.object({ port: z.string().nullable() })).default([]),
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

/** What a machine boots, and with which ports: nothing of it is trusted, all of it is measured. */
export interface BuiltDisks {
  readonly id: string;
  readonly variant: ImageVariant;
  readonly esp: string;
  readonly root: string;
  /** The firmware of a signed image, with the keys in its variables. */
  readonly firmware?: Firmware;
  readonly extraPorts: readonly string[];
}

/** @throws ImageError ERR_IMAGE_SOURCE when a file is missing, ERR_IMAGE_MALFORMED for another document than a manifest */
export async function readBuiltDisks(directory: string): Promise<BuiltDisks> {
  const { id, variant, workloads, secureBoot } = parseManifest(await readPart(directory, "manifest.json"));
  const find = (name: string) => findPart(directory, name);
  const [esp, root] = [await find("esp.img"), await find("root.img")];
  const extraPorts = furtherPorts(variant, workloads);
  if (secureBoot === null) return { id, variant, esp, root, extraPorts };
  const firmware = { ...findFirmware({ secureBoot: true }), vars: await find("vars.fd") };
  return { id, variant, esp, root, extraPorts, firmware };
}

async function findPart(directory: string, name: string): Promise<string> {
  const path = resolve(directory, name);
  await access(path, constants.R_OK).catch((cause: unknown) => {
    throw missingPart(path, cause);
  });
  return path;
}

async function readPart(directory: string, name: string): Promise<Uint8Array> {
  try {
    return new Uint8Array(await readFile(join(directory, name)));
  } catch (cause) {
    throw missingPart(join(directory, name), cause);
  }
}

function missingPart(path: string, cause: unknown): ImageError {
  return new ImageError("ERR_IMAGE_SOURCE", `image ${path}`, {
    expected: "a file",
    got: "none",
    hint: "the directory is the one that `ironclaw image build --out` filled",
    cause,
  });
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
