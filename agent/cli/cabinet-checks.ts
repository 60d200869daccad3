import { describeEkCertificate } from "../../attest/index.ts";
import {
  type Anchors,
  type BundleEntry,
  type Policy,
  parseBundle,
  parsePolicy,
  type Release,
  type SlotName,
  sha256,
  sha256Hex,
  sortedModules,
  sortedTokens,
  toHex,
  verifyReleaseSignatures,
} from "../../policy/index.ts";
import { type SealedPackage, verifySealedPackage } from "../../seal/index.ts";
import type { BuiltImage } from "../../vm-images/built-image.ts";
import { GuestTree } from "../../vm-images/guest-tree.ts";
import { parseConfig } from "../config.ts";
import { expectedLaunchEvents } from "../launch/expected-events.ts";
import { predictRelease } from "../launch/prediction.ts";
import { credentialsOf } from "../launch/tpm-check.ts";
import { releaseFileName, sealedFileName } from "./cabinet-documents.ts";
import { type CabinetFinding, looked, ok, wrong } from "./cabinet-finding.ts";
import { anchorsOf, checkSlot } from "./cabinet-slots.ts";

export type CabinetContents = ReadonlyMap<SlotName, Uint8Array>;

/** What a cabinet is compared with besides itself. */
export interface CabinetReferences {
  readonly now: Date;
  readonly image: BuiltImage | null;
  /** DER, of the TPM that the machine has. */
  readonly ekCertificate: Uint8Array | null;
  /** The cabinet that it replaces. */
  readonly before: CabinetContents | null;
}

/** What was read of a cabinet; absent where it could not be. */
interface Documents {
  readonly anchors: Anchors | null;
  readonly policy: Policy | null;
  readonly releases: readonly Release[];
  readonly sealed: readonly SealedPackage[];
}

const REQUIRED = ["module", "policy", "anchors", "release", "sealed"] as const satisfies readonly SlotName[];

/** Everything that a launch would ask of this cabinet, and can be answered without the machine. The slots' own digests hold already. */
export async function checkCabinet(
  contents: CabinetContents,
  references: CabinetReferences,
): Promise<readonly CabinetFinding[]> {
  const slots = await checkSlots(contents);
  const { findings, documents } = await readDocuments(contents, references.now);
  return [
    ...slots,
    ...findings,
    ...(documents.policy === null ? [] : checkModule(contents, documents.policy, references.image)),
    ...checkCredentials(documents),
    ...checkRelease(contents, documents),
    ...(references.image === null ? [] : await checkImage(contents, documents, references.image)),
    ...(references.ekCertificate === null ? [] : checkTpm(documents, references.ekCertificate)),
    ...(references.before === null ? [] : await checkBefore(documents, references.before, references.now)),
  ];
}

async function checkSlots(contents: CabinetContents): Promise<readonly CabinetFinding[]> {
  const missing = REQUIRED.filter((slot) => !contents.has(slot)).map((slot) =>
    wrong("fail", "slot", `slot ${slot}`, {
      expected: "what a launch needs",
      got: "nothing",
      fix: `\`cabinet put CABINET ${slot} FILE\``,
    }),
  );
  const filled = await Promise.all(
    [...contents].map(([slot, bytes]) =>
      slot === "release" || slot === "sealed"
        ? []
        : looked("slot", `slot ${slot}`, `put a sound one: \`cabinet put CABINET ${slot} FILE\``, () => {
            checkSlot(slot, bytes);
            return [ok("slot", `slot ${slot}`, `${bytes.length} bytes`)];
          }),
    ),
  );
  const token = contents.has("token")
    ? [
        wrong("warn", "slot", "slot token", {
          expected: "an HSM",
          got: "the files of a software token",
          fix: "for trials only: leave it empty",
        }),
      ]
    : [];
  return [...missing, ...filled.flat(), ...token];
}

async function readDocuments(
  contents: CabinetContents,
  now: Date,
): Promise<{ findings: readonly CabinetFinding[]; documents: Documents }> {
  const policyBytes = contents.get("policy");
  const policy = policyBytes === undefined ? null : unlessMalformed(() => parsePolicy(policyBytes));
  const anchors = unlessMalformed(() => anchorsOf(contents));
  const releases: Release[] = [];
  const sealed: SealedPackage[] = [];
  if (anchors === null) return { findings: [], documents: { anchors, policy, releases, sealed } };
  const findings = [
    ...(await eachFile(contents, "release", async ({ path, bytes }) => {
      const release = await verifyReleaseSignatures(bytes, anchors.releaseRoot);
      releases.push(release);
      return [releaseDates(release, now), ...fileName("release", path, releaseFileName(bytes))];
    })),
    ...(await eachFile(contents, "sealed", async ({ path, bytes }) => {
      const credential = await verifySealedPackage(bytes, anchors);
      sealed.push(credential);
      return [credentialDate(credential, now), ...fileName("sealed", path, sealedFileName(credential))];
    })),
  ];
  return { findings, documents: { anchors, policy, releases, sealed } };
}

/** The slot's own check has said it. */
function unlessMalformed<T>(read: () => T): T | null {
  try {
    return read();
  } catch {
    return null;
  }
}

async function eachFile(
  contents: CabinetContents,
  slot: "release" | "sealed",
  check: (file: BundleEntry) => Promise<readonly CabinetFinding[]>,
): Promise<readonly CabinetFinding[]> {
  const bytes = contents.get(slot);
  if (bytes === undefined) return [];
  const fix =
    slot === "release"
      ? "sign it again, with a key that these anchors' root has delegated"
      : "seal it again, with these anchors' operator key";
  return looked(slot, `slot ${slot}`, `write the cabinet again`, async () => {
    const found: CabinetFinding[] = [];
    for (const file of parseBundle(bytes))
      found.push(...(await looked(slot, `${slot} ${file.path}`, fix, () => check(file))));
    return found;
  });
}

/** Under other names two packages of one credential could stand side by side, and `cabinet put` would not know which to replace. */
function fileName(slot: "release" | "sealed", got: string, expected: string): readonly CabinetFinding[] {
  if (got === expected) return [];
  return [
    wrong("fail", slot, `${slot} ${got}`, {
      expected: `the file name ${expected}`,
      got,
      fix: `\`cabinet put CABINET ${slot} FILE\``,
    }),
  ];
}

function releaseDates({ name, epoch, notBefore, notAfter }: Release, now: Date): CabinetFinding {
  const what = `release ${name}`;
  const range = `${notBefore} to ${notAfter}`;
  if (now.getTime() > Date.parse(notAfter))
    return wrong("fail", "release", what, {
      expected: "one that has not ended",
      got: range,
      fix: "sign the prediction again with a later end",
    });
  if (now.getTime() < Date.parse(notBefore))
    return wrong("warn", "release", what, {
      expected: "one that has begun",
      got: range,
      fix: "wait, or sign one that begins now",
    });
  return ok("release", what, `signed, epoch ${epoch}, ${range}`);
}

function credentialDate({ name, kind, generation, notAfter }: SealedPackage, now: Date): CabinetFinding {
  const what = `credential ${name}`;
  if (notAfter !== null && now.getTime() > Date.parse(notAfter))
    return wrong("fail", "sealed", what, {
      expected: "one that has not ended",
      got: `until ${notAfter}`,
      fix: "seal the next generation",
    });
  return ok("sealed", what, `signed, ${kind}, generation ${generation}`);
}

/** The files that a policy pins, against the bundle and, where an image is given, its root. */
function checkModule(contents: CabinetContents, policy: Policy, image: BuiltImage | null): readonly CabinetFinding[] {
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
function checkCredentials({ policy, sealed, releases }: Documents): readonly CabinetFinding[] {
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
function checkRelease(contents: CabinetContents, { releases }: Documents): readonly CabinetFinding[] {
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
async function checkImage(
  contents: CabinetContents,
  { policy, releases }: Documents,
  image: BuiltImage,
): Promise<readonly CabinetFinding[]> {
  const [policyBytes, anchorsBytes] = [contents.get("policy"), contents.get("anchors")];
  if (policy === null || policyBytes === undefined || anchorsBytes === undefined || releases.length === 0) return [];
  const documents = { config: parseConfig(image.config), configBytes: image.config, anchorsBytes, policy, policyBytes };
  const { pcrs } = predictRelease(image, expectedLaunchEvents(documents, sha256(image.shim)));
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

function checkTpm({ sealed }: Documents, certificate: Uint8Array): readonly CabinetFinding[] {
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

/** Nothing may go back: a machine keeps the newest generation that it has seen, and its TPM the highest epoch. */
async function checkBefore(
  { sealed, releases }: Documents,
  before: CabinetContents,
  now: Date,
): Promise<readonly CabinetFinding[]> {
  const { documents: old } = await readDocuments(before, now);
  const back = sealed.flatMap(({ name, generation }) => {
    const earlier = old.sealed.find((each) => each.name === name);
    if (earlier === undefined || earlier.generation <= generation) return [];
    return [
      wrong("fail", "before", `credential ${name}`, {
        expected: `generation ${earlier.generation} or later`,
        got: `${generation}`,
        fix: "put the newest generation in: machines that have it refuse an older one",
      }),
    ];
  });
  const highest = (all: readonly Release[]) => Math.max(0, ...all.map(({ epoch }) => epoch));
  const lower =
    highest(releases) < highest(old.releases)
      ? [
          wrong("fail", "before", "epoch", {
            expected: `${highest(old.releases)} or later`,
            got: `${highest(releases)}`,
            fix: "put the newest release in: where its epoch was raised, no earlier one unseals",
          }),
        ]
      : [];
  const found = [...back, ...lower];
  return found.length > 0 ? found : [ok("before", "generations and epochs", "not behind those of the cabinet before")];
}
