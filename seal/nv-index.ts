import { HANDLE_RANGE, type TpmObject, type Tpm as Tss } from "node-tpm2-tss";

/** Runs `use` with an NV index opened, or with null when the TPM has none there. */
export async function withNvIndex<T>(
  tss: Tss,
  handle: number,
  use: (index: TpmObject | null) => Promise<T>,
): Promise<T> {
  const present = (await tss.handles(HANDLE_RANGE.nvIndex)).includes(handle);
  if (!present) return await use(null);
  await using index = await tss.trFromTpmPublic(handle);
  return await use(index);
}
