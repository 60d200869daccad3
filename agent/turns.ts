/** Runs acts one after the other: none begins before the one before it has ended, well or not. */
export type Turns = <T>(act: () => Promise<T>) => Promise<T>;

export function createTurns(): Turns {
  let tail: Promise<unknown> = Promise.resolve();
  return (act) => {
    const turn = tail.then(act);
    tail = turn.catch(() => undefined);
    return turn;
  };
}
