/** So many mistyped letters are still the same word. */
const MAX_DISTANCE = 2;

/** The commands that were probably meant: one with the words exchanged, one that is spelt almost so, or those that have the word in them. */
export function suggestCommands(args: readonly string[], commands: readonly string[]): readonly string[] {
  const given = args.filter((word) => !word.startsWith("-")).slice(0, 2);
  const [first = "", second = ""] = given;
  const exchanged = `${second} ${first}`;
  if (commands.includes(exchanged)) return [exchanged];
  const near = nearest([given.join(" "), first], commands);
  return near === null ? commands.filter((command) => command.split(" ").includes(first)).sort() : [near];
}

/** The name that is nearest to one of what was tried, if it is near enough. */
export function nearest(tries: readonly string[], names: readonly string[]): string | null {
  let best: string | null = null;
  let least = MAX_DISTANCE + 1;
  for (const tried of tries) {
    for (const name of names) {
      if (Math.abs(tried.length - name.length) > MAX_DISTANCE) continue;
      const distance = editDistance(tried, name);
      // Of a short word nothing would be left.
      if (distance < least && distance * 3 <= name.length) [best, least] = [name, distance];
    }
  }
  return best;
}

/** Letters put in, left out, replaced, or exchanged with their neighbour. */
function editDistance(left: string, right: string): number {
  let before: readonly number[] = [];
  let row: readonly number[] = Array.from({ length: right.length + 1 }, (_, column) => column);
  for (let i = 1; i <= left.length; i++) [before, row] = [row, nextRow(left, i, right, before, row)];
  return row[right.length] ?? 0;
}

function nextRow(left: string, i: number, right: string, before: readonly number[], row: readonly number[]): number[] {
  const next = [i];
  const at = (from: readonly number[], column: number) => from[column] ?? Number.POSITIVE_INFINITY;
  for (let j = 1; j <= right.length; j++) {
    const replaced = at(row, j - 1) + (left[i - 1] === right[j - 1] ? 0 : 1);
    const exchanged = left[i - 1] === right[j - 2] && left[i - 2] === right[j - 1] ? at(before, j - 2) + 1 : replaced;
    next.push(Math.min(at(row, j) + 1, at(next, j - 1) + 1, replaced, exchanged));
  }
  return next;
}
