import { concatBytes, toBase64, utf8 } from "../../../policy/index.ts";
import { filled, json, type Seeds } from "./made.ts";

export function pageSeeds(): Record<string, Seeds> {
  const challenge = { nonce: toBase64(filled(32, 0x41)), bank: "sha384", pcrs: [0, 7, 14] };
  const variable = concatBytes(
    filled(16, 0x61),
    Uint8Array.of(4, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0),
    utf8("B\0o\0o\0t\0"),
    Uint8Array.of(1),
  );
  return {
    "page-files": {
      challenge: json({ ...challenge, expires: "2026-06-01T00:00:00Z" }),
      nonce: utf8("ab".repeat(32)),
      pcrs: utf8("0-7, 9, 11-14"),
      policy: json({ minAssurance: "provider-ek" }),
      route: utf8("machines/vm-1/reports/7"),
      hidden: utf8("a\u202eb\u200b\ufeff"),
    },
    "page-event": {
      variable: concatBytes(Uint8Array.of(3), variable),
      action: concatBytes(Uint8Array.of(1), utf8("Exit Boot Services\0")),
      wide: concatBytes(Uint8Array.of(2), utf8("q\0u\0i\0e\0t\0")),
      separator: concatBytes(Uint8Array.of(0), new Uint8Array(4)),
    },
  };
}
