import { measurePe, parsePe, readPeSection } from "../../../attest/pe.ts";

export const maxLength = 8192;

export function run(bytes: Uint8Array): void {
  const image = parsePe(bytes);
  measurePe(image, "sha256");
  for (const { name } of image.sections) readPeSection(image, name);
}
