import { replaceRange } from "./mutate.ts";
import type { Subject } from "./subject.ts";

/** A smaller input that shows the same finding: pieces are taken out, then bytes made zero. */
export async function minimise(
  subject: Subject,
  finding: { readonly what: string; readonly input: Uint8Array },
): Promise<Uint8Array> {
  let left = subject.batch === 1 ? 3000 : 150;
  const end = performance.now() + 20_000;
  const isSame = async (input: Uint8Array): Promise<boolean> => {
    left--;
    let same = false;
    await subject.run([input], ({ outcome }) => {
      same = outcome.kind === "finding" && outcome.what === finding.what;
    });
    return same;
  };
  let best = finding.input;
  for (const candidates of [withoutPieces, withZeros]) {
    for (let size = best.length; size >= 1 && left > 0 && performance.now() < end; size = Math.floor(size / 2)) {
      for (let at = 0; at < best.length && left > 0 && performance.now() < end; ) {
        const candidate = candidates(best, at, size);
        if (candidate !== null && (await isSame(candidate))) best = candidate;
        if (candidate === null || candidate !== best || candidates === withZeros) at += size;
      }
    }
  }
  return best;
}

function withoutPieces(bytes: Uint8Array, at: number, size: number): Uint8Array | null {
  return replaceRange(bytes, at, size, new Uint8Array());
}

function withZeros(bytes: Uint8Array, at: number, size: number): Uint8Array | null {
  const piece = bytes.subarray(at, at + size);
  return piece.some((byte) => byte !== 0) ? replaceRange(bytes, at, piece.length, new Uint8Array(piece.length)) : null;
}
