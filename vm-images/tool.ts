import { execFile } from "node:child_process";
import { ImageError } from "./errors.ts";

/** Every time stamp inside an image: 2026-01-01T00:00:00Z, in seconds. */
export const SOURCE_DATE_EPOCH = 1_767_225_600;

/** Environment of every build tool: nothing of the caller's locale, time zone or settings reaches the output. */
function toolEnvironment(): Record<string, string> {
  return {
    PATH: `${process.env["PATH"] ?? ""}:/usr/sbin:/sbin`,
    HOME: process.env["HOME"] ?? "/",
    LC_ALL: "C.UTF-8",
    TZ: "UTC",
    SOURCE_DATE_EPOCH: String(SOURCE_DATE_EPOCH),
    DEBIAN_FRONTEND: "noninteractive",
  };
}

export interface ToolOptions {
  readonly directory?: string;
  /** Variables added to the clean environment. */
  readonly environment?: Readonly<Record<string, string>>;
}

/**
 * Run a program to its end and return its standard output as text (at most 64 MiB).
 * Throws {@link ImageError} ERR_IMAGE_TOOL with the last lines of its standard error when it is missing or fails.
 */
export function runTool(program: string, args: readonly string[], options: ToolOptions = {}): Promise<string> {
  return new Promise((resolve, reject) => {
    const settings = {
      cwd: options.directory,
      env: { ...toolEnvironment(), ...options.environment },
      maxBuffer: 64 * 1024 * 1024,
    };
    execFile(program, args, settings, (failure, stdout, stderr) => {
      if (failure === null) return resolve(stdout);
      const missing = "code" in failure && failure.code === "ENOENT";
      const why = missing ? "not installed" : stderr.trim().split("\n").slice(-12).join("\n");
      reject(
        new ImageError("ERR_IMAGE_TOOL", `${program} failed: ${why}`, {
          ...(missing ? { hint: "sh vm-images/machine.sh installs the build tools" } : {}),
          cause: failure,
        }),
      );
    });
  });
}
