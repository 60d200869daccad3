import { HANDLE_RANGE, TpmError, type TpmObject, type Tpm as Tss } from "node-tpm2-tss";

/** TPM_RC_HANDLE of the first handle: an index that is listed, while the owner hierarchy it belongs to is off. */
const NOT_THERE = 0x18b;

/** Runs `use` with an NV index opened, or with null when the TPM has none there, or none that can be used. */
export async function withNvIndex<T>(
  tss: Tss,
  handle: number,
  use: (index: TpmObject | null) => Promise<T>,
): Promise<T> {
  const present = (await tss.handles(HANDLE_RANGE.nvIndex)).includes(handle);
  if (!present) return await use(null);
  await using index = await openIndex(tss, handle);
  return await use(index);
}

async function openIndex(tss: Tss, handle: number): Promise<TpmObject | null> {
  try {
    return await tss.trFromTpmPublic(handle);
  } catch (error) {
    if (error instanceof TpmError && error.rc === NOT_THERE) return null;
    throw error;
  }
}
