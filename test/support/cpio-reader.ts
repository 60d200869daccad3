/** A reader of newc archives written for the tests: header fields as the kernel's initramfs code takes them. */
export function readCpio(archive: Uint8Array): { path: string; mode: number; mtime: number; bytes: Uint8Array }[] {
  const members = [];
  const ascii = Buffer.from(archive);
  for (let at = 0; ; ) {
    if (ascii.toString("latin1", at, at + 6) !== "070701") throw new Error(`no cpio header at ${at}`);
    const field = (index: number): number =>
      Number.parseInt(ascii.toString("latin1", at + 6 + 8 * index, at + 14 + 8 * index), 16);
    const [size, nameSize] = [field(6), field(11)];
    const path = ascii.toString("utf8", at + 110, at + 110 + nameSize - 1);
    const content = Math.ceil((at + 110 + nameSize) / 4) * 4;
    if (path === "TRAILER!!!") return members;
    members.push({
      path,
      mode: field(1),
      mtime: field(5),
      bytes: new Uint8Array(archive.subarray(content, content + size)),
    });
    at = Math.ceil((content + size) / 4) * 4;
  }
}
