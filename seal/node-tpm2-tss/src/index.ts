export { ADDON_NAME, loadBinding, type NativeBinding } from "./binding.ts";
export type { CommandOptions, SignalOptions } from "./commands.ts";
export {
  CAPABILITY,
  ESYS_TR,
  HANDLE_RANGE,
  HASH,
  HASH_SIZE,
  type HashName,
  type Hierarchy,
  hashName,
  OPERATION,
  type PermanentAuthority,
  PROPERTY,
} from "./constants.ts";
export { TpmError, type TpmErrorLayer, TpmFormatError } from "./errors.ts";
export {
  type Authorization,
  type Creation,
  PrimaryKey,
  Session,
  TpmHandle,
  TpmObject,
} from "./handles.ts";
export type { DictionaryAttackParameters } from "./hierarchies.ts";
export type { NvAuthority, NvDataOptions, NvDefinition, NvIndex, NvOptions, NvReadOptions } from "./nv.ts";
export type { CreationOptions, InnerWrapperOptions } from "./objects.ts";
export type { PolicyNvOptions, PolicySecretOptions } from "./policies.ts";
export type { Attestation, SigningOptions } from "./proofs.ts";
export type { SessionOptions } from "./sessions.ts";
export {
  encodeDigestValues,
  encodeNvPublic,
  encodePcrSelection,
  type NvPublic,
  type PcrSelection,
  parseDigestValues,
  parseHandles,
  parseNvPublic,
  parsePcrBanks,
  parsePcrSelection,
  parseProperties,
  parseTimeInfo,
  type TimeInfo,
} from "./structures.ts";
export { Tpm, type TpmOptions } from "./tpm.ts";
