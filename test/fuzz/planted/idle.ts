/** Something that never comes. */
export async function run(bytes: Uint8Array): Promise<void> {
  if (bytes.includes(0x40)) await new Promise(() => undefined);
}
