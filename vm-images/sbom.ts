import { sha256Hex } from "./digest.ts";
import type { InventoryFile } from "./inventory.ts";
import type { ImageManifest } from "./manifest.ts";
import type { NpmPackage } from "./npm-lock.ts";
import type { PackageSet } from "./packages.ts";
import { SOURCE_DATE_EPOCH } from "./tool.ts";

// CycloneDX 1.5, JSON (https://cyclonedx.org/docs/1.5/json/). Nothing in it depends on where or when it was made.

interface Hash {
  readonly alg: "SHA-256" | "SHA-512";
  readonly content: string;
}

interface Component {
  readonly type: "application" | "library" | "file" | "operating-system" | "platform";
  readonly "bom-ref"?: string;
  readonly name: string;
  readonly version?: string;
  readonly scope?: "required" | "excluded";
  readonly hashes?: readonly Hash[];
  readonly licenses?: readonly { readonly expression: string }[];
  readonly purl?: string;
  readonly components?: readonly Component[];
}

export interface Sbom {
  readonly bomFormat: "CycloneDX";
  readonly specVersion: "1.5";
  readonly serialNumber: string;
  readonly version: 1;
  readonly metadata: {
    readonly timestamp: string;
    readonly tools: { readonly components: readonly Component[] };
    readonly component: Component;
  };
  readonly components: readonly Component[];
  readonly dependencies: readonly { readonly ref: string; readonly dependsOn: readonly string[] }[];
}

/** Its file beside the manifest. */
export const SBOM_NAME = "sbom.cdx.json";

/** Linked into the static programs of the project (init, spawner, relay), or into all of them: their code is in the image, their files are not. */
const LINKED_IN = ["libc6-dev", "libgcc-12-dev"];
/** The kernel image's own packages: their files are in the UKI and not in the root. */
const IN_KERNEL_IMAGE = ["stub", "kernel"];

/** Every package and file of an image, and what it was compiled against (`scope` excluded). */
export function imageSbom(manifest: ImageManifest, set: PackageSet): Sbom {
  const { root, initrd, npm } = manifest;
  const files = [...root.files.map((file) => inPlace("root", file)), ...initrd.map((file) => inPlace("initrd", file))];
  const of = (origin: string) => files.filter(({ from }) => from === origin).map(({ component }) => component);
  const debian = set.packages
    .filter(({ group }) => group !== "module")
    .map((item) => debianComponent(item, of(`deb ${item.name}`)))
    .filter(({ scope, used }) => scope === "excluded" || used);
  const components: Component[] = [
    ...debian.map(({ used: _, ...component }) => component),
    ...npm.map((item) => npmComponent(item, of(`npm ${item.name}`))),
    {
      ...{ type: "application", "bom-ref": "ironclaw", name: "ironclaw-guest-agent", version: manifest.project },
      ...{ scope: "required", licenses: [{ expression: "Apache-2.0" }], components: of("ironclaw") },
    },
    ...of("recipe"),
  ];
  const uuid = sha256Hex(`sbom of ${manifest.id}`);
  return {
    ...{ bomFormat: "CycloneDX", specVersion: "1.5", serialNumber: `urn:uuid:${asUuid(uuid)}`, version: 1 },
    metadata: {
      timestamp: new Date(SOURCE_DATE_EPOCH * 1000).toISOString(),
      tools: {
        components: Object.entries(manifest.tools).map(([name, version]) => ({ type: "application", name, version })),
      },
      component: {
        ...{ type: "operating-system", "bom-ref": "image", name: `ironclaw ${manifest.variant} ${manifest.recipe}` },
        version: manifest.id,
        components: Object.entries(manifest.files).map(([name, digest]) => ({
          type: "file",
          name,
          hashes: [sha256(digest)],
        })),
      },
    },
    components,
    dependencies: [
      {
        ref: "image",
        dependsOn: components.flatMap(({ "bom-ref": ref, scope }) =>
          ref === undefined || scope === "excluded" ? [] : [ref],
        ),
      },
    ],
  };
}

function debianComponent(item: PackageSet["packages"][number], files: readonly Component[]) {
  const { group, name, version, sha256: digest } = item;
  const used = files.length > 0 || IN_KERNEL_IMAGE.includes(group) || LINKED_IN.includes(name);
  const purl = `pkg:deb/debian/${name}@${encodeURIComponent(version)}?arch=amd64&distro=bookworm`;
  const component: Component = {
    ...{ type: "library", "bom-ref": purl, name, version },
    scope: group === "sysroot" && !used ? "excluded" : "required",
    ...{ hashes: [sha256(digest)], purl },
    ...(files.length === 0 ? {} : { components: files }),
  };
  return { ...component, used };
}

function npmComponent({ name, version, sha512, license }: NpmPackage, files: readonly Component[]): Component {
  const purl = `pkg:npm/${name.replace("@", "%40")}@${version}`;
  return {
    ...{
      type: name.startsWith("node-linux") ? "platform" : "library",
      "bom-ref": purl,
      name,
      version,
      scope: "required",
    },
    ...(sha512 === undefined ? {} : { hashes: [{ alg: "SHA-512", content: sha512 }] }),
    ...(license === undefined ? {} : { licenses: [{ expression: license }] }),
    purl,
    ...(files.length === 0 ? {} : { components: files }),
  };
}

function inPlace(place: "root" | "initrd", { path, sha256: digest, from }: InventoryFile) {
  const component: Component = { type: "file", name: `${place}:${path}`, hashes: [sha256(digest)] };
  return { from, component };
}

const sha256 = (content: string): Hash => ({ alg: "SHA-256", content });

/** RFC 9562 version 8: from a digest. */
function asUuid(hex: string): string {
  const text = `${hex.slice(0, 12)}8${hex.slice(13, 16)}8${hex.slice(17, 32)}`;
  return [text.slice(0, 8), text.slice(8, 12), text.slice(12, 16), text.slice(16, 20), text.slice(20)].join("-");
}
