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

/** Runs acts one at a time as well: of those that wait, the ones that are not patient first, and each kind in its order. */
export type PatientTurns = <T>(act: () => Promise<T>, isPatient: boolean) => Promise<T>;

export function createPatientTurns(): PatientTurns {
  const first: (() => Promise<unknown>)[] = [];
  const patient: (() => Promise<unknown>)[] = [];
  let isBusy = false;
  const serve = async (): Promise<void> => {
    if (isBusy) return;
    isBusy = true;
    for (let act = first.shift() ?? patient.shift(); act !== undefined; act = first.shift() ?? patient.shift())
      await act();
    isBusy = false;
  };
  return <T>(act: () => Promise<T>, isPatient: boolean) =>
    new Promise<T>((resolve, reject) => {
      (isPatient ? patient : first).push(() => act().then(resolve, reject));
      void serve();
    });
}
