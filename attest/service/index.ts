// The verifier service. Not part of `attest/index.ts`: the verifier there is pure, this has sockets, threads and a database.
export { createApp } from "./app.ts";
export { type ClientOptions, openVerifierClient, type VerifierClient } from "./client.ts";
export {
  defaultConfig,
  encodeVerifierConfig,
  isLoopback,
  parseVerifierConfig,
  type VerifierConfig,
  verifierConfigSchema,
} from "./config.ts";
export { describeVerifier, renderVerifierFacts, type VerifierFacts } from "./describe.ts";
export { readTrustDocuments, type TrustDocuments } from "./documents.ts";
export { Refusal, type RefusalCode, refusals, ServiceError, type ServiceErrorCode } from "./errors.ts";
export { initVerifier, makeTokenFile, writeTokenFile } from "./init.ts";
export { type FlagName, flagNames, type MachineState, machineStates } from "./machine-state.ts";
export { openApiDocument } from "./openapi.ts";
export { operations } from "./operations.ts";
export { enrolAtService, keepPushing, type MachineControl, type PushOutcome, pushOnce, waitSeconds } from "./push.ts";
export { openVerifierService, type Service, type ServiceDependencies } from "./service.ts";
export { openSqliteStore } from "./sqlite-store.ts";
export type { VerifierStore } from "./store.ts";
