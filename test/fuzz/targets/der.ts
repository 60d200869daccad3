import { derOid, parseDer } from "../../../attest/der.ts";
import { encodeDer } from "../../support/der-writer.ts";
import { expectSame } from "../property.ts";

const objectIdentifier = 0x06;

export function run(bytes: Uint8Array): void {
  const elements = parseDer(bytes);
  expectSame(bytes, encodeDer(elements), "der");
  for (const { tag, content } of elements) {
    if (tag === objectIdentifier) derOid(content);
  }
}
