import { epochLimit, epochStart, keyIdOf, type Release, SEAL_PCRS } from "../policy/index.ts";

/** What each PCR covers, in words: PC Client Platform Firmware Profile, and what boots here (vm-images). */
const COVERS: Readonly<Record<number, string>> = {
  0: "firmware code",
  1: "firmware configuration",
  2: "option ROMs",
  3: "option ROM configuration",
  4: "the firmware's boot path, the kernel image and the kernel in it",
  5: "boot manager configuration and partition table",
  6: "the platform maker's events",
  7: "Secure Boot state and keys",
  8: "the boot loader's commands",
  9: "the kernel's command line and initrd",
  10: "the kernel's integrity measurements (IMA)",
  11: "the parts of the kernel image: kernel, os-release, command line, initrd",
  12: "additions to the command line and credentials from outside the image: there may be none",
  13: "the agent's launch: configuration, anchors, policy, profile, library set, environment, devices",
  14: "the boot loader's own keys (MOK)",
  15: "what the system identifies itself by",
};

export function pcrCovers(pcr: number): string {
  return COVERS[pcr] ?? "nothing that this project knows";
}

/** What the agent's events are, in words. `library`, `closure` and `file` make the library set. */
const EVENT_WORDS: Readonly<Record<Release["events"][number]["kind"], string>> = {
  config: "agent configuration",
  anchors: "trust anchors",
  policy: "policy",
  profile: "sandbox profile",
  library: "library",
  closure: "closure",
  file: "configuration file",
  environment: "environment",
  devices: "visible devices",
};

export function eventWords(kind: Release["events"][number]["kind"]): string {
  return EVENT_WORDS[kind];
}

/** A file of the library set, or another thing that the agent measures. */
export interface MeasuredItem {
  readonly kind: Release["events"][number]["kind"];
  readonly name: string;
  readonly sha256: string;
}

/** What a release says, item by item, for a person or a program. */
export interface ReleaseExplanation {
  readonly name: string;
  readonly image: Release["image"];
  readonly validity: {
    readonly notBefore: string;
    readonly notAfter: string;
    readonly now: "valid" | "not-yet-valid" | "expired";
  };
  readonly epoch: {
    readonly number: number;
    /** Highest value of a machine's epoch counter under which the release unseals. */
    readonly counterAtMost: number;
    /** The value to which it raises the counter once it serves; null when it ends no earlier epoch. */
    readonly raisesCounterTo: number | null;
  };
  readonly credentials: readonly string[];
  readonly releaseKey: {
    readonly id: string;
    readonly lastEpoch: number;
    /** Past this counter value nothing that the key signed unseals. */
    readonly counterAtMost: number;
  };
  /** SHA-256 of the policy document; null when the release names none. */
  readonly policy: string | null;
  /** Library, closure and configuration files, in the order in which they are measured. */
  readonly librarySet: readonly MeasuredItem[];
  /** Everything else that the agent measures before the unseal. */
  readonly measured: readonly MeasuredItem[];
  readonly pcrs: readonly {
    readonly pcr: number;
    readonly covers: string;
    /** Whether the credentials depend on it; a verifier compares the others. */
    readonly sealed: boolean;
    readonly sha256: string;
    readonly sha384: string;
  }[];
}

const LIBRARY_KINDS: ReadonlySet<string> = new Set(["library", "closure", "file"]);

export function isOfLibrarySet({ kind }: Pick<MeasuredItem, "kind">): boolean {
  return LIBRARY_KINDS.has(kind);
}

/** Says what is in a release. Verifies nothing: give it what `verifyReleaseSignatures` returned. */
export function explainRelease(release: Release, now: Date): ReleaseExplanation {
  const { name, image, notBefore, notAfter, epoch, raise, releaseKey, delegation, events, pcrs } = release;
  return {
    name,
    image,
    validity: { notBefore, notAfter, now: validityAt(release, now) },
    epoch: {
      number: epoch,
      counterAtMost: Number(epochLimit(epoch)),
      raisesCounterTo: raise === null ? null : Number(epochStart(epoch)),
    },
    credentials: delegation.credentials.map((credential) => credential.name),
    releaseKey: {
      id: keyIdOf(releaseKey),
      lastEpoch: delegation.lastEpoch,
      counterAtMost: Number(epochLimit(delegation.lastEpoch)),
    },
    policy: events.find(({ kind }) => kind === "policy")?.sha256 ?? null,
    librarySet: events.filter(isOfLibrarySet),
    measured: events.filter((event) => !isOfLibrarySet(event)),
    pcrs: Object.entries(pcrs.sha256).map(([index, sha256]) => ({
      pcr: Number(index),
      covers: pcrCovers(Number(index)),
      sealed: SEAL_PCRS.includes(Number(index)),
      sha256,
      sha384: pcrs.sha384[index] ?? "",
    })),
  };
}

function validityAt(
  { notBefore, notAfter }: Pick<Release, "notBefore" | "notAfter">,
  now: Date,
): ReleaseExplanation["validity"]["now"] {
  if (now.getTime() < Date.parse(notBefore)) return "not-yet-valid";
  return now.getTime() <= Date.parse(notAfter) ? "valid" : "expired";
}

/** The explanation as plain text. */
export function renderRelease(explanation: ReleaseExplanation): string {
  const { name, image, credentials, releaseKey, policy, librarySet, measured, pcrs } = explanation;
  const item = ({ kind, name: what, sha256 }: MeasuredItem) =>
    `  ${sha256}  ${eventWords(kind)}${what === kind ? "" : ` ${flat(what)}`}`;
  return [
    `release ${flat(name)}: the signatures verify`,
    `  image        ${image.id}, variant ${image.variant}`,
    `  valid        ${renderValidity(explanation)}`,
    `  epoch        ${renderEpoch(explanation)}`,
    `  unseals      ${credentials.join(", ")}`,
    `  release key  ${releaseKey.id}: may sign up to epoch ${releaseKey.lastEpoch};`,
    `               past counter value ${releaseKey.counterAtMost} nothing that it signed unseals`,
    `  policy       ${policy ?? "none named"}`,
    "",
    "The library set (SHA-256 of each file): with one other byte in it the credentials stay sealed.",
    ...librarySet.map(item),
    "",
    "Measured by the agent besides:",
    ...measured.map(item),
    "",
    "The credentials are unsealed only while all of these PCRs hold these values (SHA-256 bank):",
    ...pcrs.filter(({ sealed }) => sealed).map(renderPcr),
    ...(pcrs.every(({ sealed }) => sealed) ? [] : ["", "Only a verifier compares these:"]),
    ...pcrs.filter(({ sealed }) => !sealed).map(renderPcr),
  ].join("\n");
}

function renderPcr({ pcr, covers, sha256 }: ReleaseExplanation["pcrs"][number]): string {
  return `  ${`PCR ${pcr}`.padEnd(6)}  ${sha256}  ${covers}`;
}

function renderValidity({ validity }: ReleaseExplanation): string {
  const words = {
    valid: "valid now",
    "not-yet-valid": "NOT YET VALID: no machine with a right clock unseals",
    expired: "EXPIRED: no machine with a right clock unseals",
  } as const;
  return `${validity.notBefore} to ${validity.notAfter}: ${words[validity.now]}`;
}

function renderEpoch({ epoch }: ReleaseExplanation): string {
  const { number, counterAtMost, raisesCounterTo } = epoch;
  const accepts = `${number}: unseals while the machine's epoch counter is at most ${counterAtMost}`;
  if (raisesCounterTo === null) return `${accepts}; it ends no earlier epoch`;
  const ended = number === 1 ? "epoch 0" : `epochs 0 to ${number - 1}`;
  return `${accepts};\n               once it serves it raises the counter to ${raisesCounterTo}: releases of ${ended} no longer unseal there, for good`;
}

/** Names come from outside: a line feed in one must not look like a line of ours. */
export function flat(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: these are the characters to take out
  return text.replaceAll(/[\u0000-\u001f\u007f-\u009f\u200e\u200f\u2028-\u202e\u2066-\u2069]/g, "?");
}
