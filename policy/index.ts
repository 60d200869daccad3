// The whole surface of `policy`: other folders import from here only.
export * from "./anchors.ts";
export * from "./bundle.ts";
export * from "./bytes.ts";
export * from "./cabinet.ts";
export * from "./canonical-json.ts";
export * from "./cbor.ts";
export * from "./decide.ts";
export * from "./envelope.ts";
export * from "./errors.ts";
export * from "./hash.ts";
export * from "./json.ts";
export * from "./keys.ts";
export * from "./mechanisms.ts";
export * from "./policy.ts";
export * from "./rate.ts";
export * from "./release.ts";
export { syscallName } from "./runtime/syscalls.ts";
export * from "./tpm-policy.ts";
