import { encodeAppraisalPolicy, parseAppraisalPolicy } from "../../../attest/appraisal-policy.ts";
import { expectSame } from "../property.ts";

/** Written for people, so white space is free: the law is about its own encoding. */
export function run(bytes: Uint8Array): void {
  const encoded = encodeAppraisalPolicy(parseAppraisalPolicy(bytes));
  expectSame(encoded, encodeAppraisalPolicy(parseAppraisalPolicy(encoded)), "appraisal policy");
}
