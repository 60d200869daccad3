const REASONS: Readonly<Record<string, string>> = {
  ENOENT: "no such file",
  ENOTDIR: "no directory",
  EISDIR: "a directory",
  EACCES: "no permission",
  EPERM: "no permission",
  EEXIST: "one that exists",
  ENOTEMPTY: "one with files in it",
  ENOSPC: "a full disk",
};

/** What the system has against a file, in words where it is one of the usual; else its code. */
export function reasonOf(cause: unknown): string {
  const code = cause instanceof Error && "code" in cause ? String(cause.code) : "a failure";
  return REASONS[code] ?? code;
}
