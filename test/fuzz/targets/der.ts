import { derOid, parseDer } from "../../../attest/der.ts";
import { oid } from "../../support/certificate-writer.ts";
import { encodeDer } from "../../support/der-writer.ts";
import { expectSame } from "../property.ts";

const objectIdentifier = 0x06;

export function run(bytes: Uint8Array): void {
  const elements = parseDer(bytes);
  expectSame(bytes, encodeDer(elements), "der");
  for (const { tag, content } of elements) {
    if (tag === objectIdentifier) expectSame(content, oid(derOid(content)).content, "object identifier");
  }
}
