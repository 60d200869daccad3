import { constants } from "node:os";
import { join, resolve } from "node:path";

/** What crosses the line to C: a 32-bit number, or bytes as the TCG marshals them. */
export type NativeValue = number | Uint8Array;

/** One connection in C. Opaque: only the binding that made it accepts it. */
export interface NativeConnection {
  readonly __nativeConnection: never;
}

/** The addon's three functions. Not part of the package's surface: `Tpm` validates what it passes on. */
export interface NativeBinding {
  connection(): NativeConnection;
  /** Rejects with the bare response code. Throws a TypeError while another command of the connection runs. */
  run(
    connection: NativeConnection,
    command: string,
    sessions: readonly [number, number, number],
    inputs: readonly NativeValue[],
  ): Promise<readonly NativeValue[]>;
  decode(rc: number): string;
}

export const ADDON_NAME = "tpm2_tss.node";

/** The addon itself and the libraries that it brings find each other's symbols first, and Node's after that: see native/openssl_context.c. */
const LOAD_FLAGS = constants.dlopen.RTLD_NOW | constants.dlopen.RTLD_DEEPBIND;

/**
 * Loads the addon from `directory`. The path is computed at run time, so a bundler leaves it alone and the addon may lie
 * anywhere. Throws what `process.dlopen` throws when the addon is missing or was built for another machine.
 */
export function loadBinding(directory: string): NativeBinding {
  const module = { exports: {} };
  process.dlopen(module, join(resolve(directory), ADDON_NAME), LOAD_FLAGS);
  return module.exports as NativeBinding; // the addon's shape is fixed by native/addon.c
}
