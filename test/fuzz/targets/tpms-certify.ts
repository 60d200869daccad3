import { parseCertifyAttest } from "../../../attest/index.ts";
import { encodeCertify } from "../../support/quote-writer.ts";
import { expectSame } from "../property.ts";

export function run(bytes: Uint8Array): void {
  expectSame(bytes, encodeCertify(parseCertifyAttest(bytes)), "TPMS_ATTEST of TPM2_Certify");
}
