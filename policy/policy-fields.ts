import * as z from "zod";
import { CREDENTIAL_NAME } from "./sealing-policy.ts";

export const hex64: z.ZodString = z.string().regex(/^[0-9a-f]{64}$/, "expected 64 lower-case hexadecimal digits");
export const sha256Tag: z.ZodTemplateLiteral<`sha256:${string}`> = z.templateLiteral(["sha256:", hex64]);
export const name: z.ZodString = z
  .string()
  .regex(/^[a-z0-9][a-z0-9-]{0,47}$/, "expected a name of a-z, 0-9 and '-', at most 48 characters");
export const path: z.ZodString = z
  .string()
  .max(1024)
  .refine(isNormalisedPath, "expected an absolute path without empty, '.' or '..' components");
export const digests: z.ZodRecord<z.ZodString, z.ZodString> = z.record(path, hex64);
export const credential: z.ZodString = z
  .string()
  .regex(CREDENTIAL_NAME, "expected a credential's name of a-z, 0-9 and '-', at most 32 characters");

/** @param max bytes that it stands for */
export function base64(max: number): z.ZodString {
  return z
    .string()
    .max(Math.ceil(max / 3) * 4)
    .regex(/^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$/, "expected base64");
}

export function printable(max: number): z.ZodString {
  return z
    .string()
    .max(max)
    .regex(/^\P{Cc}*$/u, "expected no control characters");
}

export function isNormalisedPath(text: string): boolean {
  const parts = text.split("/");
  // A NUL byte would end the path early in every system call.
  if (parts[0] !== "" || parts.length < 2 || text.includes("\0")) return false;
  return parts.slice(1).every((part) => part !== "" && part !== "." && part !== "..");
}

export function doubles(values: readonly string[]): string[] {
  const seen = new Set<string>();
  const found = new Set<string>();
  for (const value of values) (seen.has(value) ? found : seen).add(value);
  return [...found];
}

export type DeepReadonly<T> = T extends object ? { readonly [K in keyof T]: DeepReadonly<T[K]> } : T;
