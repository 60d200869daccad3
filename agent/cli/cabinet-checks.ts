import {
  type BundleEntry,
  parseBundle,
  parsePolicy,
  type Release,
  type SlotName,
  verifyReleaseSignatures,
} from "../../policy/index.ts";
import { type SealedPackage, verifySealedPackage } from "../../seal/index.ts";
import type { BuiltImage } from "../../vm-images/built-image.ts";
import {
  type CabinetContents,
  type CabinetDocuments,
  checkCredentials,
  checkImage,
  checkModule,
  checkRelease,
  checkTpm,
  unlessMalformed,
} from "./cabinet-comparisons.ts";
import { releaseFileName, sealedFileName } from "./cabinet-documents.ts";
import { type CabinetFinding, looked, ok, wrong } from "./cabinet-finding.ts";
import { anchorsOf, checkSlot } from "./cabinet-slots.ts";

/** What a cabinet is compared with besides itself. */
export interface CabinetReferences {
  readonly now: Date;
  readonly image: BuiltImage | null;
  /** DER, of the TPM that the machine has. */
  readonly ekCertificate: Uint8Array | null;
  /** The cabinet that it replaces. */
  readonly before: CabinetContents | null;
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
    ...(documents.anchors === null ? [] : checkCredentials(documents)),
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
): Promise<{ findings: readonly CabinetFinding[]; documents: CabinetDocuments }> {
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

/** Nothing may go back: a machine keeps the newest generation that it has seen, and its TPM the highest epoch. */
async function checkBefore(
  { sealed, releases }: CabinetDocuments,
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
