/**
 * The symbolic values that a profile may use in conditions, with their x86_64 numbers. Only names listed here can be
 * written, so a misspelt flag is an error and not a silent zero.
 */
const CONSTANTS: Readonly<Record<string, bigint>> = {
  PROT_NONE: 0n,
  PROT_READ: 0x1n,
  PROT_WRITE: 0x2n,
  PROT_EXEC: 0x4n,
  O_RDONLY: 0n,
  O_WRONLY: 0x1n,
  O_RDWR: 0x2n,
  O_CREAT: 0x40n,
  O_EXCL: 0x80n,
  O_NOCTTY: 0x100n,
  O_TRUNC: 0x200n,
  O_APPEND: 0x400n,
  O_NONBLOCK: 0x800n,
  O_DIRECTORY: 0x1_0000n,
  O_NOFOLLOW: 0x2_0000n,
  O_CLOEXEC: 0x8_0000n,
  F_GETFD: 1n,
  F_SETFD: 2n,
  F_GETFL: 3n,
  F_SETFL: 4n,
  F_GETLK: 5n,
  F_SETLK: 6n,
  F_SETLKW: 7n,
  F_DUPFD_CLOEXEC: 1030n,
  AT_EMPTY_PATH: 0x1000n,
  GRND_NONBLOCK: 0x1n,
  MADV_NORMAL: 0n,
  MADV_DONTNEED: 4n,
  MADV_FREE: 8n,
  MADV_DONTDUMP: 16n,
  MADV_WIPEONFORK: 18n,
  PR_SET_NAME: 15n,
  PR_GET_SECCOMP: 21n,
  PR_SET_SECCOMP: 22n,
  SIG_BLOCK: 0n,
  SIG_UNBLOCK: 1n,
  SIG_SETMASK: 2n,
};

/** A number (decimal or 0x...) or a constant's name; undefined when it is neither or does not fit 64 bits. */
export function constantValue(word: string): bigint | undefined {
  if (/^(0x[0-9a-f]{1,16}|0|[1-9][0-9]{0,19})$/.test(word)) {
    const value = BigInt(word);
    return value <= 0xffff_ffff_ffff_ffffn ? value : undefined;
  }
  return Object.hasOwn(CONSTANTS, word) ? CONSTANTS[word] : undefined;
}
