import { TpmError, type TpmObject, type Tpm as Tss } from "node-tpm2-tss";

/** TPM_RC_HANDLE of the first handle: no such index, or one whose hierarchy is off. */
const NOT_THERE = 0x18b;

/** Runs `use` with an NV index opened, or with null: see `openNvIndex`. */
export async function withNvIndex<T>(
  tss: Tss,
  handle: number,
  use: (index: TpmObject | null) => Promise<T>,
): Promise<T> {
  await using index = await openNvIndex(tss, handle);
  return await use(index);
}

/** Null when the TPM has none there, or none that can be used. */
export async function openNvIndex(tss: Tss, handle: number): Promise<TpmObject | null> {
  try {
    return await tss.trFromTpmPublic(handle);
  } catch (error) {
    if (error instanceof TpmError && error.rc === NOT_THERE) return null;
    throw error;
  }
}
