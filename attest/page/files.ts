/// <reference lib="dom" />

/** Offers bytes as a file to save. Names come from the service: only plain letters stay. */
export function saveFile(name: string, type: string, bytes: Uint8Array): void {
  const address = URL.createObjectURL(new Blob([bytes as BlobPart], { type }));
  const link = document.createElement("a");
  link.href = address;
  link.download = name.replaceAll(/[^\w.-]/g, "_").slice(0, 100);
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}
