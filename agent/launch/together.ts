/**
 * Both at the same time, and both to their ends: whatever follows, such as the cap of a launch that is refused, finds nothing under way.
 * @throws what the first of them threw that did
 */
export async function together<A, B>(one: Promise<A>, other: Promise<B>): Promise<readonly [A, B]> {
  await Promise.allSettled([one, other]);
  return [await one, await other];
}
