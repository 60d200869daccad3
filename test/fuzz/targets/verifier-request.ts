import { checkRequest, decodeJsonBody } from "../../../attest/service/bodies.ts";
import { Refusal } from "../../../attest/service/errors.ts";
import { type Operation, operations } from "../../../attest/service/operations.ts";

export function isTyped(error: unknown): boolean {
  return error instanceof Refusal;
}

/** Every body of the verifier service's interface: taken when one of its operations takes it. */
export function run(bytes: Uint8Array): void {
  const sent = decodeJsonBody(bytes);
  let refused: unknown = null;
  for (const { body } of Object.values<Operation>(operations)) {
    if (body === null || body === "evidence") continue;
    try {
      checkRequest(body, sent);
      return;
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      refused = error;
    }
  }
  throw refused;
}
