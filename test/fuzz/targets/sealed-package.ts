import { encodeSealedPackage, parseSealedPackage } from "../../../seal/package.ts";
import { rootKeyPem } from "../keys.ts";
import { expectSame } from "../property.ts";

export function run(bytes: Uint8Array): void {
  expectSame(bytes, encodeSealedPackage(parseSealedPackage(bytes, rootKeyPem)), "sealed package");
}
