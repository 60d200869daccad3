export { ADDON_NAME, loadBinding, type NativeBinding } from "./binding.ts";
export {
  CAPABILITY,
  ESYS_TR,
  HANDLE_RANGE,
  HASH,
  HASH_SIZE,
  type HashName,
  type Hierarchy,
  PROPERTY,
} from "./constants.ts";
export { TpmError, type TpmErrorLayer } from "./errors.ts";
export {
  type Authorization,
  PrimaryKey,
  Session,
  TpmHandle,
  TpmObject,
} from "./handles.ts";
export {
  encodeDigestValues,
  encodePcrSelection,
  type NvPublic,
  type PcrSelection,
  parsePcrSelection,
} from "./structures.ts";
export {
  type CommandOptions,
  type NvIndex,
  type SessionOptions,
  Tpm,
  type TpmOptions,
} from "./tpm.ts";
