/**
 * `release`: all hardening, no shell, nothing of the demo. `demo`: the same hardening, and what the demo needs. `dev`: a shell on a
 * serial port, memory may be read; a release verifier refuses it, and `demo`.
 */
export const IMAGE_VARIANTS = ["demo", "dev", "release"] as const;
/** What can be built: an installed system has a variant of its own, and is no image. */
export type ImageVariant = (typeof IMAGE_VARIANTS)[number];

/** Has a recipe's `trial` part: what no release may have. */
export const isTrial = (variant: ImageVariant): boolean => variant !== "release";
