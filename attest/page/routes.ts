export type Route =
  | { readonly kind: "fleet" }
  | { readonly kind: "check" }
  | { readonly kind: "machine"; readonly name: string; readonly report: string | null }
  | { readonly kind: "unknown" };

/** The view that an address names; `null` for one that is not the page's to answer, such as the skip link's. */
export function routeOf(hash: string): Route | null {
  if (hash === "" || hash === "#") return { kind: "fleet" };
  if (!hash.startsWith("#/")) return null;
  const parts = hash.slice(2).split("/").map(decoded);
  const [first = "", name, reports, id, ...more] = parts;
  if (more.length > 0 || parts.includes(null)) return { kind: "unknown" };
  if (first === "" && parts.length === 1) return { kind: "fleet" };
  if (first === "check" && parts.length === 1) return { kind: "check" };
  if (first !== "machines" || !name) return { kind: "unknown" };
  if (parts.length === 2) return { kind: "machine", name, report: null };
  return reports === "reports" && id ? { kind: "machine", name, report: id } : { kind: "unknown" };
}

function decoded(part: string): string | null {
  try {
    return decodeURIComponent(part);
  } catch {
    return null;
  }
}
