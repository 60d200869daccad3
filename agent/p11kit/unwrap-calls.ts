import { startOperation } from "../broker/operation.ts";
import { scopeOf } from "../broker/scope-state.ts";
import { finishUnwrapping, ruleFor } from "../broker/unwrapping.ts";
import { type Application, type CallHandler, failure, liveSession, values } from "./application.ts";
import { type Attribute, CKA } from "./attributes.ts";
import { bytesOf, encodeUlongs } from "./codec.ts";
import { arrivalHandle, keyObjectOf } from "./objects.ts";

/** What no key that arrives is, whatever the caller asks for. Silence is answered by the policy's own template. */
const NEVER: ReadonlyMap<number, number> = new Map([
  [CKA.EXTRACTABLE, 1],
  [CKA.WRAP, 1],
  [CKA.UNWRAP, 1],
  [CKA.DERIVE, 1],
  [CKA.ENCRYPT, 1],
  [CKA.VERIFY, 1],
  [CKA.SIGN_RECOVER, 1],
  [CKA.SENSITIVE, 0],
  [CKA.PRIVATE, 0],
]);

/**
 * The template is not the caller's to choose: what contradicts the forced one is refused, everything else is passed over. Only its label is
 * looked at, where the policy lets in any blob: it says as which key.
 */
export const unwrapKey: CallHandler = async (application, args) => {
  const handle = args.ulong("session");
  const asked = args.mechanism();
  if (asked === null) return failure("MECHANISM_INVALID");
  const unwrapping = args.ulong("unwrapping key");
  const wrapped = bytesOf(args.byteArray("wrapped key"));
  const template = args.attributes();
  args.end();
  if (liveSession(application, handle) === null) return failure("SESSION_HANDLE_INVALID");
  if (wrapped === null || wrapped.length === 0) return failure("ARGUMENTS_BAD");
  return unwrap(application, { ...asked, unwrapping, wrapped, template });
};

interface UnwrapCall {
  readonly mechanism: bigint;
  readonly parameters: Parameters<typeof startOperation>[2]["parameters"];
  readonly unwrapping: bigint;
  readonly wrapped: Uint8Array;
  readonly template: readonly Attribute[];
}

async function unwrap({ state, peer }: Application, call: UnwrapCall): Promise<ReturnType<typeof values>> {
  const { mechanism, parameters, wrapped, template } = call;
  const object = keyObjectOf(state, call.unwrapping);
  const named = { key: object?.key.name ?? null, isPublic: object?.kind === "public" };
  const started = await startOperation(state, peer, { operation: "unwrap", mechanism, parameters, ...named });
  if (started.kind === "refused") return { kind: "error", rv: started.rv };
  if (template.some(contradicts)) return failure("TEMPLATE_INCONSISTENT");
  const rule = ruleFor(scopeOf(state) ?? {}, wrapped, labelOf(template));
  const result = await finishUnwrapping(state, peer, started, { bytes: wrapped, rule });
  if (result.kind === "refused") return { kind: "error", rv: result.rv };
  return values(encodeUlongs(arrivalHandle(state, result.key)));
}

function contradicts({ type, value }: Attribute): boolean {
  const forbidden = NEVER.get(type);
  return forbidden !== undefined && value?.kind === "byte" && (value.value === 0 ? 0 : 1) === forbidden;
}

function labelOf(template: readonly Attribute[]): string | null {
  const value = template.find(({ type }) => type === CKA.LABEL)?.value;
  return value?.kind === "bytes" ? new TextDecoder().decode(value.value) : null;
}
