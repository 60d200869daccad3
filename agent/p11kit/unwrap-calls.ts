import { startOperation } from "../broker/operation.ts";
import { refuseMechanism, refuseParameters } from "../broker/refusing.ts";
import { scopeOf } from "../broker/scope-state.ts";
import { finishUnwrapping, ruleFor } from "../broker/unwrapping.ts";
import { type Answer, type Application, type CallHandler, failure, liveSession, values } from "./application.ts";
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

/** The uses that a key which arrives may have: it has the one that its rule says. */
const USES = [
  { type: CKA.SIGN, does: "sign" },
  { type: CKA.DECRYPT, does: "decrypt" },
] as const;

/**
 * The template is not the caller's to choose: what contradicts the forced one is refused, everything else is passed over. Only its label is
 * looked at, where the policy lets in any blob: it says as which key.
 */
export const unwrapKey: CallHandler = async (application, args) => {
  const handle = args.ulong("session");
  const { mechanism, parameters } = args.mechanism();
  if (parameters === null) return refuseUnread(application, handle, mechanism);
  const unwrapping = args.ulong("unwrapping key");
  const wrapped = bytesOf(args.byteArray("wrapped key"));
  const template = args.attributes();
  args.end();
  if (liveSession(application, handle) === null) return failure("SESSION_HANDLE_INVALID");
  if (wrapped === null || wrapped.length === 0) return failure("ARGUMENTS_BAD");
  return unwrap(application, { mechanism, parameters, unwrapping, wrapped, template });
};

async function refuseUnread(application: Application, handle: bigint, mechanism: bigint): Promise<Answer> {
  if (liveSession(application, handle) === null) return failure("SESSION_HANDLE_INVALID");
  const { rv } = await refuseMechanism(application.state, application.peer, "unwrap", mechanism);
  return { kind: "error", rv };
}

interface UnwrapCall {
  readonly mechanism: bigint;
  readonly parameters: Parameters<typeof startOperation>[2]["parameters"];
  readonly unwrapping: bigint;
  readonly wrapped: Uint8Array;
  readonly template: readonly Attribute[];
}

async function unwrap({ state, peer }: Application, call: UnwrapCall): Promise<Answer> {
  const { mechanism, parameters, wrapped, template } = call;
  const object = keyObjectOf(state, call.unwrapping);
  const named = { key: object?.key.name ?? null, isPublic: object?.kind === "public" };
  const started = await startOperation(state, peer, { operation: "unwrap", mechanism, parameters, ...named });
  if (started.kind === "refused") return { kind: "error", rv: started.rv };
  const scope = scopeOf(state);
  const rule = ruleFor(scope ?? {}, wrapped, labelOf(template));
  const does = scope?.unwraps?.find(({ key }) => key === rule)?.does ?? null;
  const wrong = template.find((attribute) => contradicts(attribute, does));
  if (wrong !== undefined) {
    const reason = `the template's attribute 0x${wrong.type.toString(16)} contradicts the policy's`;
    const { rv } = await refuseParameters(state, peer, started, { code: "TEMPLATE_INCONSISTENT", reason });
    return { kind: "error", rv };
  }
  const result = await finishUnwrapping(state, peer, started, { bytes: wrapped, rule });
  if (result.kind === "refused") return { kind: "error", rv: result.rv };
  return values(encodeUlongs(arrivalHandle(state, result.key)));
}

/** @param does of the rule that the wrapped key fits; null when it fits none, and then it is refused for that */
function contradicts({ type, value }: Attribute, does: "sign" | "decrypt" | null): boolean {
  if (value?.kind !== "byte") return false;
  const asked = value.value === 0 ? 0 : 1;
  const use = USES.find((known) => known.type === type);
  if (use !== undefined) return does !== null && asked !== (use.does === does ? 1 : 0);
  return NEVER.get(type) === asked;
}

function labelOf(template: readonly Attribute[]): string | null {
  const value = template.find(({ type }) => type === CKA.LABEL)?.value;
  return value?.kind === "bytes" ? new TextDecoder().decode(value.value) : null;
}
