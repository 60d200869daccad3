import { describeEkCertificate } from "../../attest/index.ts";
import {
  type Anchors,
  IronclawError,
  type Policy,
  parseBundle,
  type Release,
  type SlotName,
  sha256,
  sha256Hex,
  sortedModules,
  sortedTokens,
  toHex,
} from "../../policy/index.ts";
import type { SealedPackage } from "../../seal/index.ts";
import type { BuiltImage } from "../../vm-images/built-image.ts";
import { GuestTree } from "../../vm-images/guest-tree.ts";
import { parseConfig } from "../config.ts";
import { expectedLaunchEvents } from "../launch/expected-events.ts";
import { predictRelease } from "../launch/prediction.ts";
import { credentialsOf } from "../launch/tpm-check.ts";
import { type CabinetFinding, ok, wrong } from "./cabinet-finding.ts";

export type CabinetContents = ReadonlyMap<SlotName, Uint8Array>;

/** What was read of a cabinet; absent where it could not be. */
export interface CabinetDocuments {
  readonly anchors: Anchors | null;
  readonly policy: Policy | null;
  readonly releases: readonly Release[];
  readonly sealed: readonly SealedPackage[];
}

/** The slot's own check has said it. */
export function unlessMalformed<T>(read: () => T): T | null {
  try {
    return read();
  } catch (error) {
    if (!(error instanceof IronclawError)) throw error;
    return null;
  }
}

/** The files that a policy pins, against the bundle and, where an image is given, its root. */
export function checkModule(
  contents: CabinetContents,
  policy: Policy,
  image: BuiltImage | null,
): readonly CabinetFinding[] {
  const bundle = new Map(
    unlessMalformed(() => parseBundle(contents.get("module") ?? new Uint8Array()))?.map(({ path, bytes }) => [
      path,
      bytes,
    ]),
  );
  const tree = image === null ? null : new GuestTree(image.treeDirectory, []);
  const pinned = new Set<string>();
  const findings = sortedModules(policy).flatMap((module) =>
    Object.entries({ [module.path]: module.sha256, ...module.closure, ...module.config }).flatMap(
      ([path, expected]) => {
        pinned.add(path);
        const bytes = bundle.get(path) ?? tree?.readFile(path) ?? null;
        if (bytes === null && tree === null && path !== module.path) return []; // the image's, which was not given
        const got = bytes === null ? "no such file" : sha256Hex(bytes);
        if (got === expected) return [];
        return [
          wrong("fail", "module", `module ${module.name}: ${path}`, {
            expected,
            got,
            fix: "measure the module again, and release a policy with what it measures",
          }),
        ];
      },
    ),
  );
  const extra = [...bundle.keys()].filter((path) => !pinned.has(path));
  return [
    ...(findings.length > 0
      ? findings
      : [
          ok(
            "module",
            "module",
            `${pinned.size} pinned files are as the policy says${tree === null ? ", as far as they are in the cabinet" : ""}`,
          ),
        ]),
    ...extra.map((path) =>
      wrong("warn", "module", path, {
        expected: "a file that the policy pins",
        got: "one that no shim gets",
        fix: "leave it out",
      }),
    ),
  ];
}

/** Each credential that the policy needs is there, of its kind, for its token, and a release here may unseal it. */
export function checkCredentials({ policy, sealed, releases }: CabinetDocuments): readonly CabinetFinding[] {
  if (policy === null) return [];
  const serials = new Map(sortedTokens(policy).map(({ pin, serial }) => [pin, serial]));
  return credentialsOf(policy, true).flatMap(({ name, kind }): readonly CabinetFinding[] => {
    const what = `credential ${name}`;
    const found = sealed.find((each) => each.name === name);
    if (found === undefined)
      return [
        wrong("fail", "sealed", what, {
          expected: `a sealed ${kind}`,
          got: "none",
          fix: "`ironclaw seal`, then `cabinet put CABINET sealed FILE --add`",
        }),
      ];
    if (found.kind !== kind)
      return [
        wrong("fail", "sealed", what, {
          expected: kind,
          got: found.kind,
          fix: "seal it as what the policy uses it for",
        }),
      ];
    const serial = serials.get(name);
    if (serial !== undefined && found.tokenSerial !== serial)
      return [
        wrong("fail", "sealed", what, {
          expected: `token ${serial}`,
          got: `token ${found.tokenSerial ?? "none"}`,
          fix: "seal it with the policy's --token-serial",
        }),
      ];
    const delegated = releases.some(({ delegation }) => delegation.credentials.some((each) => each.name === name));
    if (delegated || releases.length === 0) return [];
    return [
      wrong("fail", "sealed", what, {
        expected: "a release whose key the root approved for it",
        got: "none",
        fix: "`ironclaw keys delegate --credential` it, and sign again",
      }),
    ];
  });
}

/** At least one release here is for this very policy and these anchors. */
export function checkRelease(contents: CabinetContents, { releases }: CabinetDocuments): readonly CabinetFinding[] {
  if (releases.length === 0) return [];
  return (["policy", "anchors"] as const).flatMap((slot) => {
    const bytes = contents.get(slot);
    if (bytes === undefined) return [];
    const digest = sha256Hex(bytes);
    const named = releases.filter(({ events }) =>
      events.some(({ kind, sha256: each }) => kind === slot && each === digest),
    );
    if (named.length > 0) return [ok("release", slot, `release ${named.map(({ name }) => name).join(", ")} is for it`)];
    return [
      wrong("fail", "release", slot, {
        expected: "a release that was predicted with it",
        got: "none: everything stays sealed",
        fix: "`ironclaw release predict`, sign, and put that release in",
      }),
    ];
  });
}

/** What this image would measure with these documents, against each release. */
export async function checkImage(
  contents: CabinetContents,
  { policy, releases }: CabinetDocuments,
  image: BuiltImage,
): Promise<readonly CabinetFinding[]> {
  const [policyBytes, anchorsBytes] = [contents.get("policy"), contents.get("anchors")];
  if (policy === null || policyBytes === undefined || anchorsBytes === undefined || releases.length === 0) return [];
  const documents = { config: parseConfig(image.config), configBytes: image.config, anchorsBytes, policy, policyBytes };
  const { pcrs } = predictRelease(image.uki, expectedLaunchEvents(documents, sha256(image.shim)));
  const wanted = Object.entries(pcrs.sha256);
  const fits = releases.filter((release) => wanted.every(([pcr, value]) => release.pcrs.sha256[pcr] === value));
  if (fits.length > 0)
    return [
      ok("image", `image ${image.id.slice(0, 16)}`, `release ${fits.map(({ name }) => name).join(", ")} predicts it`),
    ];
  const [first] = releases;
  const differing = wanted.filter(([pcr, value]) => first?.pcrs.sha256[pcr] !== value).map(([pcr]) => pcr);
  return [
    wrong("fail", "image", `image ${image.id.slice(0, 16)}`, {
      expected: "a release that predicts it",
      got: `none: PCR ${differing.join(", ")} of ${first?.name} differ`,
      fix: "predict and sign a release for this image, or boot the released one",
    }),
  ];
}

export function checkTpm({ sealed }: CabinetDocuments, certificate: Uint8Array): readonly CabinetFinding[] {
  const names = describeEkCertificate(certificate).profiles.map(({ ekName }) => ekName);
  return sealed.map(({ name, ekName }) =>
    names.includes(toHex(ekName))
      ? ok("tpm", `credential ${name}`, "sealed to this TPM")
      : wrong("fail", "tpm", `credential ${name}`, {
          expected: `this TPM's EK ${names.join(" or ")}`,
          got: toHex(ekName),
          fix: "seal it to this machine's EK certificate, or give the cabinet to its own machine",
        }),
  );
}
