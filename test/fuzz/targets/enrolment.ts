import { encodeEnrolment, parseEnrolment } from "../../../attest/enrolment.ts";
import { expectSame } from "../property.ts";

export function run(bytes: Uint8Array): void {
  const encoded = encodeEnrolment(parseEnrolment(bytes));
  expectSame(encoded, encodeEnrolment(parseEnrolment(encoded)), "enrolment");
}
