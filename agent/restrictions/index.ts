export { type FreezeReport, type NarrowReport, Restrictions, requireBit } from "./restrictions.ts";
