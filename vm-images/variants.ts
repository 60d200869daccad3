import { type ImageVariant, imageVariants } from "../attest/index.ts";

export type { ImageVariant };
/**
 * `release`: all hardening, no shell, nothing of the demo. `demo`: the same hardening, and what the demo needs. `dev`: a shell on a
 * serial port, memory may be read; a release verifier refuses it, and `demo`.
 */
export const IMAGE_VARIANTS = imageVariants;

/** Has a recipe's `trial` part: what no release may have. */
export const isTrial = (variant: ImageVariant): boolean => variant !== "release";
