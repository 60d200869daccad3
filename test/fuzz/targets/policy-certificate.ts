import { parseDer } from "../../../attest/der.ts";
import { joinBytes } from "../../../policy/bytes.ts";
import { parseCertificate } from "../../../policy/certificate.ts";
import { expectTrue } from "../property.ts";

/** What is taken is one element for the verifier's reader too, and its parts stand in it in their order. */
export function run(bytes: Uint8Array): void {
  const { der, serial, issuer, subject, spki } = parseCertificate(bytes);
  expectTrue(parseDer(der).length === 1, "certificate: not one element");
  const parts = [serial, issuer, subject, spki];
  expectTrue(
    parts.every((part) => parseDer(part).length === 1),
    "certificate: a part that is not one element",
  );
  const starts = parts.map((part) => part.byteOffset);
  expectTrue(
    starts.every((start, index) => index === 0 || start > (starts[index - 1] ?? 0)),
    "certificate: parts out of order",
  );
  expectTrue(joinBytes(parts).length < der.length, "certificate: parts that are more than the whole");
}
