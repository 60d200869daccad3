/** One member of an archive. Directories end in "/". */
export interface CpioEntry {
  readonly path: string;
  readonly mode: number;
  readonly bytes?: Uint8Array;
}

const S_IFDIR = 0o040000;
const S_IFREG = 0o100000;
const TRAILER = "TRAILER!!!";

const hex8 = (value: number): string => value.toString(16).toUpperCase().padStart(8, "0");

const padding = (length: number): Uint8Array => new Uint8Array((4 - (length % 4)) % 4);

/**
 * A "newc" cpio archive (magic 070701) as the kernel's initramfs unpacks it: a 110-byte ASCII header, name and content
 * each padded to 4 bytes. Owner root, times 0, inode numbers counted from 1: equal entries give equal bytes.
 */
export function encodeCpio(entries: readonly CpioEntry[]): Uint8Array {
  const chunks: Uint8Array[] = [];
  entries.forEach((entry, index) => {
    const type = entry.path.endsWith("/") ? S_IFDIR : S_IFREG;
    chunks.push(
      ...member(entry.path.replace(/\/$/, ""), index + 1, type | entry.mode, entry.bytes ?? new Uint8Array()),
    );
  });
  chunks.push(...member(TRAILER, 0, 0, new Uint8Array()));
  return Buffer.concat(chunks);
}

function member(name: string, inode: number, mode: number, content: Uint8Array): Uint8Array[] {
  const nameBytes = new TextEncoder().encode(`${name}\0`);
  const links = (mode & S_IFDIR) === S_IFDIR ? 2 : 1;
  const times = 0;
  // inode, mode, uid, gid, links, mtime, size, device major/minor, special major/minor, name size, checksum
  const fields = [inode, mode, 0, 0, links, times, content.length, 0, 0, 0, 0, nameBytes.length, 0];
  const header = new TextEncoder().encode(`070701${fields.map(hex8).join("")}`);
  return [header, nameBytes, padding(header.length + nameBytes.length), content, padding(content.length)];
}
