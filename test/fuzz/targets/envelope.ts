import { encodeEnvelope, encodePreAuthentication, parseEnvelope } from "../../../policy/envelope.ts";
import { expectSame } from "../property.ts";

export function run(bytes: Uint8Array): void {
  const envelope = parseEnvelope(bytes);
  encodePreAuthentication(envelope.payloadType, envelope.payload);
  expectSame(bytes, encodeEnvelope(envelope), "envelope");
}
