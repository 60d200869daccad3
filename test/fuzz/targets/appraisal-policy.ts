import { encodeAppraisalPolicy, parseAppraisalPolicy } from "../../../attest/appraisal-policy.ts";
import { expectSame } from "../property.ts";

/** Written for people, so white space is free: the law is about its own encoding. */
export function run(bytes: Uint8Array): void {
  const encoded = encodeAppraisalPolicy(parseAppraisalPolicy(bytes).document);
  expectSame(encoded, encodeAppraisalPolicy(parseAppraisalPolicy(encoded).document), "appraisal policy");
}
