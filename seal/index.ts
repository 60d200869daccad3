// The whole surface of `seal`: other folders import from here only.
export * from "./delegation.ts";
export * from "./ek-public.ts";
export * from "./endorsement.ts";
export * from "./errors.ts";
export * from "./import-blob.ts";
export * from "./keys.ts";
export * from "./offline-seal.ts";
export * from "./package.ts";
export * from "./padding.ts";
export * from "./release.ts";
export * from "./tpm.ts";
export * from "./tpm-templates.ts";
export * from "./unseal.ts";
export * from "./unseal-answer.ts";
