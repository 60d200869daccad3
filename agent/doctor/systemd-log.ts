import * as z from "zod";
import { type PcrBank, pcrBanks } from "../../attest/index.ts";
import { fromHex, parseJson, utf8 } from "../../policy/index.ts";
import type { Files } from "./files.ts";

/** Where systemd writes what it extends from user space (systemd-pcrextend); RFC 7464, one JSON text a record. Before systemd 255 it does not. */
const LOG = "/run/log/systemd/tpm2-measure.log";
const MAX_RECORDS = 4096;

const record = z.object({
  pcr: z.int().min(0).max(23),
  digests: z.array(z.object({ hashAlg: z.string().max(16), digest: z.string().max(256) })).max(16),
});

export interface SystemdEvent {
  readonly pcr: number;
  readonly digests: ReadonlyMap<PcrBank, Uint8Array>;
}

/** What can be read of it; a record of another form is left out, and a replay with it comes to another value. */
export function systemdEvents(files: Files): readonly SystemdEvent[] {
  const records = (files.text(LOG) ?? "").split("\u001e").slice(0, MAX_RECORDS);
  return records.flatMap((text) => {
    const parsed = record.safeParse(jsonOf(text));
    if (!parsed.success) return [];
    const { pcr, digests } = parsed.data;
    return [{ pcr, digests: new Map(digests.flatMap(({ hashAlg, digest }) => ours(hashAlg, digest))) }];
  });
}

function jsonOf(text: string): unknown {
  try {
    return parseJson(utf8(text), "record", { maxBytes: 65_536, maxDepth: 8 });
  } catch {
    return null;
  }
}

function ours(hashAlg: string, digest: string): readonly (readonly [PcrBank, Uint8Array])[] {
  const bank = pcrBanks.find((name) => name === hashAlg);
  return bank === undefined || !/^(?:[0-9a-f]{2})+$/.test(digest) ? [] : [[bank, fromHex(digest)]];
}
