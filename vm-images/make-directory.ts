import { makeDirectory as makeFolders } from "../attest/service/make-directory.ts";
import { ImageError } from "./errors.ts";

/**
 * A folder and those above it, where they are not there yet.
 * @returns whether it was made
 * @throws ImageError ERR_IMAGE_PLACE
 */
export function makeDirectory(path: string, mode = 0o777): Promise<boolean> {
  return makeFolders({ path, mode, refusal: (what, fields) => new ImageError("ERR_IMAGE_PLACE", what, fields) });
}
