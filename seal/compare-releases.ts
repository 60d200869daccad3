import { BOOT_PCRS, epochLimit, epochStart, keyIdOf, type Release } from "../policy/index.ts";
import { eventWords, flat, isOfLibrarySet, type MeasuredItem, pcrCovers } from "./explain-release.ts";

/** One thing in which two releases differ. */
export interface ReleaseChange {
  /** What: `image`, `epoch`, or a measured thing by kind and name, e.g. `library /usr/lib/x.so`. */
  readonly item: string;
  readonly change: "added" | "removed" | "changed";
  readonly from: string | null;
  readonly to: string | null;
  /** What follows from it, for a person. */
  readonly consequence: string;
}

/**
 * Everything in which two releases differ, with what follows from it. Empty: they unseal the same, on the same machines, for as long.
 * Verifies nothing: give it what `verifyReleaseSignatures` returned, both under one root.
 */
export function compareReleases(from: Release, to: Release): readonly ReleaseChange[] {
  return [
    ...changed("name", from.name, to.name, "a name only"),
    ...compareImage(from, to),
    ...compareEvents(from, to),
    ...comparePcrs(from, to),
    ...compareEpoch(from, to),
    ...compareRaise(from, to),
    ...compareValidity(from, to),
    ...compareKey(from, to),
    ...compareCredentials(from, to),
  ];
}

function changed(item: string, from: string, to: string, consequence: string): ReleaseChange[] {
  return from === to ? [] : [{ item, change: "changed", from, to, consequence }];
}

function compareImage(from: Release, to: Release): readonly ReleaseChange[] {
  const moved = BOOT_PCRS.filter((pcr) => pcrDiffers(from, to, pcr));
  const consequence =
    moved.length === 0
      ? "no boot PCR changes: both images start alike"
      : `a machine has to boot the new image; ${moved.map((pcr) => `PCR ${pcr} (${pcrCovers(pcr)})`).join(", ")} change${moved.length === 1 ? "s" : ""}`;
  const variants = "what the image is hardened for: a verifier may refuse this variant";
  return [
    ...changed("image", from.image.id, to.image.id, consequence),
    ...changed("image variant", from.image.variant, to.image.variant, variants),
  ];
}

const MEASURED_CONSEQUENCE: Readonly<Record<MeasuredItem["kind"], string>> = {
  config: "the agent's configuration is part of the image: PCR 13 changes with it",
  anchors: "the machine trusts other keys: sealed packages and releases of the old ones no longer verify there",
  policy: "other callers, keys or mechanisms: compare the two policies; a machine needs the new one in its cabinet",
  profile: "the shim runs under another sandbox",
  library: "other bytes of the library run: a machine needs exactly these in its cabinet",
  closure: "other bytes run in the shim: a machine needs exactly these in its cabinet or image",
  file: "the library is configured otherwise: a machine needs exactly this file in its cabinet",
  environment: "the library starts with other variables",
  devices: "the machine must show exactly these devices",
};

function compareEvents(from: Release, to: Release): readonly ReleaseChange[] {
  const [before, after] = [byItem(from.events), byItem(to.events)];
  const changes = [...new Set([...before.keys(), ...after.keys()])].flatMap((item): ReleaseChange[] => {
    const [old, next] = [before.get(item), after.get(item)];
    if (old === undefined) return next === undefined ? [] : [appeared(item, next)];
    if (next === undefined) return [disappeared(item, old)];
    return changed(item, old.sha256, next.sha256, MEASURED_CONSEQUENCE[next.kind]);
  });
  if (changes.length > 0 || !pcrDiffers(from, to, 13)) return changes;
  const order = (release: Release) => release.events.map(({ kind, name }) => `${kind} ${name}`).join(", ");
  return changed("order of measurement", order(from), order(to), "PCR 13 changes: another agent measured this");
}

/** Two events of one kind and name are two items. */
function byItem(events: Release["events"]): ReadonlyMap<string, MeasuredItem> {
  const items = new Map<string, MeasuredItem>();
  for (const event of events) {
    const item = event.name === event.kind ? event.kind : `${event.kind} ${event.name}`;
    let key = item;
    for (let count = 2; items.has(key); count += 1) key = `${item} (${count})`;
    items.set(key, event);
  }
  return items;
}

function appeared(item: string, { kind, sha256 }: MeasuredItem): ReleaseChange {
  const consequence = isOfLibrarySet({ kind })
    ? "one file more in the shim: a machine needs exactly these bytes of it"
    : `one measurement more (${eventWords(kind)})`;
  return { item, change: "added", from: null, to: sha256, consequence };
}

function disappeared(item: string, { kind, sha256 }: MeasuredItem): ReleaseChange {
  const consequence = isOfLibrarySet({ kind })
    ? "one file less in the shim: the library no longer opens it"
    : `one measurement less (${eventWords(kind)})`;
  return { item, change: "removed", from: sha256, to: null, consequence };
}

/** What no image and no event accounts for. */
function comparePcrs(from: Release, to: Release): readonly ReleaseChange[] {
  const imageChanged = from.image.id !== to.image.id;
  const indices = [...new Set([...Object.keys(from.pcrs.sha256), ...Object.keys(to.pcrs.sha256)])].map(Number);
  return indices
    .filter((pcr) => pcr !== 13 && !(imageChanged && BOOT_PCRS.includes(pcr)) && pcrDiffers(from, to, pcr))
    .map((pcr): ReleaseChange => {
      const bank = from.pcrs.sha256[`${pcr}`] === to.pcrs.sha256[`${pcr}`] ? "sha384" : "sha256";
      const [old, next] = [from.pcrs[bank][`${pcr}`] ?? null, to.pcrs[bank][`${pcr}`] ?? null];
      const change = old === null ? "added" : next === null ? "removed" : "changed";
      return { item: `PCR ${pcr}`, change, from: old, to: next, consequence: `covers ${pcrCovers(pcr)}` };
    });
}

function pcrDiffers(from: Release, to: Release, pcr: number): boolean {
  return (["sha256", "sha384"] as const).some((bank) => from.pcrs[bank][`${pcr}`] !== to.pcrs[bank][`${pcr}`]);
}

function compareEpoch(from: Release, to: Release): readonly ReleaseChange[] {
  const describe = ({ epoch }: Release) => `${epoch} (counter at most ${epochLimit(epoch)})`;
  return changed("epoch", describe(from), describe(to), epochConsequence(from, to));
}

function epochConsequence(from: Release, to: Release): string {
  if (to.epoch < from.epoch) {
    const reached = from.raise === null ? epochLimit(to.epoch) + 1n : epochStart(from.epoch);
    return `lower than before: the new release does not unseal on a machine whose counter has reached ${reached}`;
  }
  if (to.raise === null) return "the old release goes on unsealing: the new one does not raise the counter";
  return `once the new release has served on a machine, the old one no longer unseals there, for good: the counter then stands at ${epochStart(to.epoch)} or above`;
}

function compareRaise(from: Release, to: Release): readonly ReleaseChange[] {
  const describe = ({ raise, epoch }: Release) =>
    raise === null ? "ends no earlier epoch" : `ends all epochs below ${epoch} once it serves`;
  if ((from.raise === null) === (to.raise === null)) return [];
  const consequence =
    to.raise === null
      ? "machines keep the counter that they have"
      : `where it serves, releases of epochs below ${to.epoch} no longer unseal`;
  return changed("raise", describe(from), describe(to), consequence);
}

function compareValidity(from: Release, to: Release): readonly ReleaseChange[] {
  const longer = Date.parse(to.notAfter) > Date.parse(from.notAfter);
  const end = longer ? "the new release ends later" : "the new release ends earlier: renew it before that day";
  return [
    ...changed("notBefore", from.notBefore, to.notBefore, "before that time the new release does not unseal"),
    ...changed("notAfter", from.notAfter, to.notAfter, end),
  ];
}

function compareKey(from: Release, to: Release): readonly ReleaseChange[] {
  const limit = ({ delegation }: Release) => `epoch ${delegation.lastEpoch}`;
  const fromKey = keyIdOf(from.releaseKey);
  const toKey = keyIdOf(to.releaseKey);
  const last = `the new release's key ends once a machine's counter is past ${epochLimit(to.delegation.lastEpoch)}`;
  return [
    ...changed(
      "release key",
      fromKey,
      toKey,
      "another key signed it; the root approved both, no credential is sealed again",
    ),
    ...changed("last epoch of the release key", limit(from), limit(to), last),
  ];
}

function compareCredentials(from: Release, to: Release): readonly ReleaseChange[] {
  const names = ({ delegation }: Release) => delegation.credentials.map(({ name }) => name);
  const [before, after] = [names(from), names(to)];
  return [
    ...after
      .filter((name) => !before.includes(name))
      .map((name): ReleaseChange => {
        const consequence = "the new release unseals it, the old one does not";
        return { item: `credential ${name}`, change: "added", from: null, to: name, consequence };
      }),
    ...before
      .filter((name) => !after.includes(name))
      .map((name): ReleaseChange => {
        const consequence = "it stays sealed under the new release";
        return { item: `credential ${name}`, change: "removed", from: name, to: null, consequence };
      }),
  ];
}

/** The changes as plain text. */
export function renderChanges(from: string, to: string, changes: readonly ReleaseChange[]): string {
  const heading = `from release ${flat(from)} to release ${flat(to)}`;
  if (changes.length === 0)
    return `${heading}: no difference; they unseal the same credentials on the same machines for the same time`;
  return [
    `${heading}: ${changes.length} change${changes.length === 1 ? "" : "s"}`,
    ...changes.flatMap(({ item, change, from: old, to: next, consequence }) => [
      "",
      `${flat(item)}: ${change}`,
      ...(old === null ? [] : [`  was  ${flat(old)}`]),
      ...(next === null ? [] : [`  now  ${flat(next)}`]),
      `  so   ${consequence}`,
    ]),
  ].join("\n");
}
