import * as z from "zod";

// What CycloneDX 1.5 says of the fields that our bill of materials has (https://cyclonedx.org/docs/1.5/json/); others are refused.

const hash = z.strictObject({
  alg: z.enum(["MD5", "SHA-1", "SHA-256", "SHA-384", "SHA-512", "SHA3-256", "SHA3-384", "SHA3-512", "BLAKE3"]),
  content: z.string().regex(/^([a-fA-F0-9]{32}|[a-fA-F0-9]{40}|[a-fA-F0-9]{64}|[a-fA-F0-9]{96}|[a-fA-F0-9]{128})$/),
});

const fields = {
  type: z.literal([
    ...(["application", "framework", "library", "container", "platform", "operating-system", "device"] as const),
    ...(["device-driver", "firmware", "file", "machine-learning-model", "data"] as const),
  ]),
  name: z.string(),
  "bom-ref": z.string().min(1).optional(),
  version: z.string().optional(),
  scope: z.enum(["required", "optional", "excluded"]).optional(),
  hashes: z.array(hash).optional(),
  licenses: z.tuple([z.strictObject({ expression: z.string() })]).optional(),
  purl: z.string().optional(),
};
const file = z.strictObject(fields);
const component = z.strictObject({ ...fields, components: z.array(file).optional() });

export const cycloneDx15 = z.strictObject({
  bomFormat: z.literal("CycloneDX"),
  specVersion: z.literal("1.5"),
  serialNumber: z.string().regex(/^urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/),
  version: z.int().min(1),
  metadata: z.strictObject({
    timestamp: z.iso.datetime(),
    tools: z.strictObject({ components: z.array(component) }),
    component,
  }),
  components: z.array(component).min(1),
  dependencies: z.array(z.strictObject({ ref: z.string().min(1), dependsOn: z.array(z.string().min(1)) })),
});
