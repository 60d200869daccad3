import * as z from "zod";
import { type RefusalCode, refusals } from "./errors.ts";
import { evidenceType, type Operation, operations, refusalsOf } from "./operations.ts";
import { errorSchema, health, machineDetail, machineRow, resultSchema } from "./schemas.ts";

const components: ReadonlyMap<z.ZodType, string> = new Map<z.ZodType, string>([
  [errorSchema, "Error"],
  [resultSchema, "Result"],
  [machineDetail, "Machine"],
  [machineRow, "MachineRow"],
]);

/** OpenAPI 3.1 of the service, made of the schemas that check requests and answers. */
export function openApiDocument(): object {
  const paths: Record<string, Record<string, object>> = {};
  for (const [id, operation] of Object.entries<Operation>(operations)) {
    paths[operation.path] = { ...paths[operation.path], [operation.method.toLowerCase()]: describe(id, operation) };
  }
  return {
    openapi: "3.1.0",
    info: {
      title: "IronClaw verifier",
      version: "1",
      description: "Enrolment, challenges, evidence and verdicts. attest/VERIFIER.md has the meaning.",
      license: { name: "Apache-2.0", identifier: "Apache-2.0" },
    },
    paths,
    components: {
      schemas: Object.fromEntries([...components].map(([schema, name]) => [name, jsonSchema(schema)])),
      securitySchemes: {
        bearer: { type: "http", scheme: "bearer", description: "A viewer's or operator's token" },
        certificate: { type: "mutualTLS", description: "A client certificate that the configuration names" },
      },
    },
  };
}

function describe(operationId: string, operation: Operation): object {
  const { role, does, body, answer } = operation;
  const anyone = role === "none";
  return {
    operationId,
    summary: does,
    "x-role": role,
    security: [...(anyone ? [{}] : []), { bearer: [] }, { certificate: [] }],
    ...parametersOf(operation),
    ...(body === null
      ? {}
      : { requestBody: { required: true, content: contentOf(body === "evidence" ? evidenceType : body, "input") } }),
    responses: {
      [answer.status]: {
        description: does,
        ...(answer.schema === null ? {} : { content: contentOf(answer.schema, "output") }),
      },
      ...(operationId === "checkHealth" ? failingHealth() : refusalResponses(refusalsOf(operation))),
    },
  };
}

function parametersOf({ params, body }: Operation): object {
  const inPath = Object.entries(params.shape).map(([name, schema]) => ({
    ...{ name, in: "path", required: true },
    schema: jsonSchema(schema as z.ZodType), // zod's own type of a shape is wider
  }));
  const nonce = {
    ...{ name: "Ironclaw-Nonce", in: "header", required: true },
    ...{ description: "The challenge's nonce", schema: jsonSchema(z.base64().length(44)) },
  };
  const parameters = body === "evidence" ? [...inPath, nonce] : inPath;
  return parameters.length === 0 ? {} : { parameters };
}

function refusalResponses(codes: readonly RefusalCode[]): object {
  const statuses = [...new Set(codes.map((code) => refusals[code].status))].sort();
  return Object.fromEntries(
    statuses.map((status) => {
      const said = codes.filter((code) => refusals[code].status === status);
      const description = said.map((code) => `\`${code}\`: ${refusals[code].text}`).join("; ");
      return [status, { description, content: contentOf(errorSchema, "output") }];
    }),
  );
}

function failingHealth(): object {
  const {
    429: many,
    401: credential,
    403: site,
    500: failed,
  } = refusalResponses(["too-many", "unauthenticated", "forbidden", "internal"]) as Record<number, object>;
  return {
    401: credential,
    403: site,
    429: many,
    500: failed,
    503: { description: "Store or threads fail", content: contentOf(health, "output") },
  };
}

function contentOf(schema: z.ZodType | string, io: "input" | "output"): object {
  if (typeof schema === "string") return { [schema]: {} };
  const name = components.get(schema);
  return {
    "application/json": {
      schema: name === undefined ? jsonSchema(schema, io) : { $ref: `#/components/schemas/${name}` },
    },
  };
}

function jsonSchema(schema: z.ZodType, io: "input" | "output" = "output"): object {
  const { $schema: _, ...rest } = z.toJSONSchema(schema, { io }) as Record<string, unknown>;
  return rest;
}
