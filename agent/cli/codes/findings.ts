import { WEAKER_GUARANTEES } from "../../../policy/index.ts";
import { EXPOSURE_WORDS } from "../../../vm-images/host/exposure-words.ts";
import { CATALOGUE } from "../../doctor/index.ts";
import type { CabinetFindingId } from "../cabinet-finding.ts";
import type { Meaning, Meanings } from "./meaning.ts";

const LOSSES: ReadonlyMap<string, string> = new Map(WEAKER_GUARANTEES.map(({ name, loss }) => [name, loss]));

/** Findings of `doctor`, from its own catalogue. */
export const DOCTOR_CODES: Meanings = Object.fromEntries(
  Object.entries(CATALOGUE).map(([id, { what, fix }]) => [
    id,
    { means: LOSSES.get(id) ?? `looked at: ${what}`, act: fix },
  ]),
);

/** Findings of the host check, from its own words. */
export const HOST_CODES: Meanings = Object.fromEntries(
  Object.entries(EXPOSURE_WORDS).map(([id, { expected, got, hint }]) => [
    id,
    { means: `expected ${expected}, got ${got}`, act: hint },
  ]),
);

export const CABINET_CODES: Readonly<Record<CabinetFindingId, Meaning>> = {
  layout: {
    means: "the header is damaged, the file is shorter or longer than its slots, or a slot has not its digest",
    act: "write the cabinet again (`ironclaw cabinet new`), or copy it again where it was cut",
  },
  slot: {
    means: "what a launch needs is not there, or a document cannot be read; a software token is a warning",
    act: "put a sound one: `ironclaw cabinet put CABINET SLOT FILE`",
  },
  module: {
    means: "a file that the policy pins has another digest or is not there; a file that no shim gets is a warning",
    act: "measure the module again, and release a policy with what it measures",
  },
  release: {
    means:
      "a release that no delegated key signed, that has ended or not begun, or none that is for this policy and these anchors",
    act: "predict and sign one for what is in the cabinet, and put it in",
  },
  sealed: {
    means:
      "a credential that the policy needs is missing, of another kind or for another token, has ended, or no release here may unseal it",
    act: "seal it as the line says; where none may, `ironclaw keys delegate --credential` it, and sign again",
  },
  tpm: {
    means: "with `--ek-certificate`: a credential is sealed to another TPM",
    act: "seal it to this machine's EK certificate, or give the cabinet to its own machine",
  },
  image: {
    means: "with `--image`: no release here predicts what this image measures with these documents",
    act: "predict and sign a release for this image, or boot the released one",
  },
  before: {
    means: "with `--before`: a generation or the epoch goes back behind the cabinet's that this one replaces",
    act: "put the newest one in: machines that have it refuse an older one",
  },
};
