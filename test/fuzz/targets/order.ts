import { encodeOrder, parseOrder } from "../../../seal/order.ts";
import { expectSame } from "../property.ts";

export function run(bytes: Uint8Array): void {
  expectSame(bytes, encodeOrder(parseOrder(bytes)), "order");
}
