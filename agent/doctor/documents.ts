import type { Reason } from "../../attest/index.ts";
import { EPOCH_STRIDE, epochLimit, lintPolicy, type Policy, type Release } from "../../policy/index.ts";
import { adviceFor } from "../../seal/index.ts";
import type { ReadInputs } from "../launch/inputs.ts";
import type { FindingId } from "./catalogue.ts";
import { type Finding, fail, ok, warn } from "./finding.ts";

const DAY = 86_400_000;
/** A release that ends so soon is a warning, and so are so few epochs left to a release key. */
const SOON_DAYS = 30;
const FEW_EPOCHS = 3;

/** What the cabinet holds, read as a launch reads it. @param epoch the TPM's counter; null where none can be read */
export function documentFindings(
  { partial, reasons }: ReadInputs,
  { epoch, now }: { readonly epoch: bigint | null; readonly now: Date },
): readonly Finding[] {
  const { anchors, policy, releases, machine } = partial;
  const problems = reasons.map(documentProblem);
  return [
    ...problems,
    ...(problems.some(({ id }) => id === "cabinet") || anchors === undefined
      ? []
      : [ok("cabinet", `of ${machine ?? "an unnamed machine"}: every document could be read`)]),
    ...(policy === undefined ? [] : policyFindings(policy, now.getTime())),
    ...(releases === undefined ? [] : releaseFindings(releases, now, epoch)),
  ];
}

const IDS: Readonly<Record<string, FindingId>> = { policy: "policy", release: "release", sealed: "sealed" };

/** Every reason of a launch's reader, under the id of the document that it is about. */
function documentProblem({ code, item, expected, got }: Reason): Finding {
  const word = item.split(" ")[0] ?? "";
  const id =
    IDS[word] ?? (code.startsWith("release-") ? "release" : code.startsWith("credential-") ? "sealed" : "cabinet");
  return fail(id, { expected: `${item}: ${expected}`, got: `${code}: ${got}`, fix: adviceFor(code) ?? undefined });
}

export function policyFindings(policy: Policy, now: number): readonly Finding[] {
  const warnings = lintPolicy(policy, now);
  const review = warnings.filter(({ code }) => code === "review-passed" || code === "review-far");
  const others = warnings.filter((warning) => !review.includes(warning));
  return [
    ...others.map(({ code, message }) => warn("policy", { got: `${code}: ${message}` })),
    ...(others.length === 0 ? [ok("policy", `serial ${policy.serial} of ${policy.owner}: no finding`)] : []),
    ...review.map(({ message }) => warn("policy-review", { got: message })),
    ...(review.length === 0 ? [ok("policy-review", `by ${policy.reviewBy}`)] : []),
  ];
}

/** Which of them a launch could take now, by their dates and by the counter; the measurements are the credentials' matter. */
export function releaseFindings(releases: readonly Release[], now: Date, epoch: bigint | null): readonly Finding[] {
  const time = now.getTime();
  const current = releases.filter(
    ({ notBefore, notAfter }) => time >= Date.parse(notBefore) && time <= Date.parse(notAfter),
  );
  const standing = epoch === null ? releases : releases.filter((release) => epoch <= epochLimit(release.epoch));
  return [
    datesFinding(releases, current, time),
    ...(epoch === null ? [] : [epochFinding(releases, standing, epoch)]),
    ...trustFindings(releases, epoch),
  ];
}

function datesFinding(releases: readonly Release[], current: readonly Release[], time: number): Finding {
  const dates = releases.map(({ name, notBefore, notAfter }) => `${name}, ${notBefore} to ${notAfter}`).join("; ");
  const last = Math.max(...current.map(({ notAfter }) => Date.parse(notAfter)));
  if (current.length === 0)
    return fail("release", { expected: `one that is valid at ${new Date(time).toISOString()}`, got: dates || "none" });
  if (last - time < SOON_DAYS * DAY)
    return warn("release", { expected: `one for more than ${SOON_DAYS} days`, got: dates });
  return ok("release", dates);
}

function epochFinding(releases: readonly Release[], standing: readonly Release[], epoch: bigint): Finding {
  const counter = `counter ${epoch}, epoch ${epoch / BigInt(EPOCH_STRIDE)}`;
  const ended = releases.filter((release) => !standing.includes(release)).map(({ name }) => name);
  const expected = "releases that the counter has not left behind";
  if (standing.length === 0)
    return fail("release-epoch", { expected, got: `${counter}: all are ended: ${ended.join(", ")}` });
  if (ended.length > 0)
    return warn("release-epoch", {
      expected,
      got: `${counter}: ended: ${ended.join(", ")}`,
      fix: "take the ended release out of the cabinet",
    });
  return ok("release-epoch", `${counter}; releases of epoch ${standing.map((release) => release.epoch).join(", ")}`);
}

/** A release root has no date: it ends with the epochs that it has delegated. */
function trustFindings(releases: readonly Release[], epoch: bigint | null): readonly Finding[] {
  const last = Math.max(...releases.map(({ delegation }) => delegation.lastEpoch));
  if (releases.length === 0) return [];
  const reached = Math.max(Number((epoch ?? 0n) / BigInt(EPOCH_STRIDE)), ...releases.map((release) => release.epoch));
  const got = `the release key's last epoch is ${last}, reached is ${reached}`;
  if (epoch !== null && epoch > epochLimit(last))
    return [fail("trust-root", { expected: "a release key for this epoch", got })];
  if (last - reached < FEW_EPOCHS) return [warn("trust-root", { expected: `${FEW_EPOCHS} epochs more at least`, got })];
  return [ok("trust-root", got)];
}
