import * as z from "zod";
import { certificateFault, MAX_CERTIFICATE } from "./certificate.ts";
import type { DocumentFinding } from "./findings.ts";
import type { Policy } from "./policy.ts";
import { base64, name } from "./policy-fields.ts";

/** For keys, of which there are no more. */
const MAX_CERTIFICATES = 256;

/** An X.509 certificate, DER in base64, by the name of the key that it is of. */
export const certificates: z.ZodDefault<z.ZodRecord<typeof name, z.ZodString>> = z
  .record(name, base64(MAX_CERTIFICATE))
  .refine((all) => Object.keys(all).length <= MAX_CERTIFICATES, `expected at most ${MAX_CERTIFICATES} certificates`)
  .default({});

/** Each has to be a certificate, and of its key. */
export function certificateFindings({ certificates, keys }: Policy): readonly DocumentFinding[] {
  return Object.entries(certificates).flatMap(([keyName, certificate]): readonly DocumentFinding[] => {
    const path = ["certificates", keyName];
    const key = Object.hasOwn(keys, keyName) ? keys[keyName] : undefined;
    if (key === undefined) return [{ path, message: `certificates.${keyName}: unknown key`, at: "name" }];
    const fault = certificateFault(certificate, key.spki);
    return fault === null ? [] : [{ path, message: `certificates.${keyName}: ${fault}` }];
  });
}
