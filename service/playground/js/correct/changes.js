/** Which words of a text were changed, found from left to right in one pass. */

const WORD = /[\p{L}\p{M}\p{N}]+(?:['’][\p{L}\p{M}]+)*|[^\s\p{L}\p{M}\p{N}]/gu;
const MAX_SHIFT = 8; // words, beyond which two texts are compared word by word

/** @typedef {{text: string, start: number, end: number}} Word */
/**
 * `text` stands at `start` to `end` of the corrected text in the place of `source`; either may be empty.
 *
 * @typedef {{source: string, text: string, start: number, end: number}} Change
 */

/** @param {string} text @returns {Word[]} */
const wordsOf = (text) => [...text.matchAll(WORD)].map((match) => ({ text: match[0], start: match.index, end: match.index + match[0].length }));

/**
 * The changes between a text and its correction, in order.
 *
 * @param {string} source
 * @param {string} corrected
 */
export function changesOf(source, corrected) {
  const [before, after] = [wordsOf(source), wordsOf(corrected)];
  /** @type {Change[]} */
  const changes = [];
  let [i, j] = [0, 0];
  while (i < before.length || j < after.length) {
    if (before[i]?.text === after[j]?.text) {
      i += 1;
      j += 1;
      continue;
    }
    const [numBefore, numAfter] = changedHere(before.slice(i, i + MAX_SHIFT + 1), after.slice(j, j + MAX_SHIFT + 1));
    changes.push(...paired(source, before.slice(i, i + numBefore), corrected, after.slice(j, j + numAfter), after[j - 1]?.end ?? 0));
    i += numBefore;
    j += numAfter;
  }
  return changes;
}

/**
 * How many words of each side are changed until both go on alike: the fewest, and as many on either side where that fits.
 *
 * @param {Word[]} before
 * @param {Word[]} after
 * @returns {[number, number]}
 */
function changedHere(before, after) {
  for (let most = 1; most <= MAX_SHIFT; most += 1) {
    for (let fewest = most; fewest >= 0; fewest -= 1) {
      for (const [x, y] of [[most, fewest], [fewest, most]]) {
        if (x <= before.length && y <= after.length && before[x]?.text === after[y]?.text) return [x, y];
      }
    }
  }
  return [Math.min(1, before.length), Math.min(1, after.length)];
}

/**
 * Words that took the place of as many are changes one by one, others are one change.
 *
 * @param {string} source
 * @param {Word[]} before
 * @param {string} corrected
 * @param {Word[]} after
 * @param {number} place where a change that leaves nothing stands
 * @returns {Change[]}
 */
function paired(source, before, corrected, after, place) {
  if (before.length === after.length) return before.map((word, index) => ({ ...after[index], source: word.text }));
  const [start, end] = [after[0]?.start ?? place, after.at(-1)?.end ?? place];
  const was = before.length ? source.slice(before[0].start, before[before.length - 1].end) : "";
  return [{ source: was, text: corrected.slice(start, end), start, end }];
}
