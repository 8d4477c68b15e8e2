/** Does work while something keeps changing: often, but never so fast that nothing of it is ever finished. */

const MOST_MILLISECONDS = 1000;

/**
 * `touch()` asks for `work()` soon, at most once in `milliseconds`, or in as long as it last took; the state after the last
 * touch is always worked on. `work()` tells by true that it was finished; where newer work took its place, the next waits
 * twice as long. `signal` ends it.
 */
export function paced(work, { milliseconds, signal }) {
  let timer = 0;
  let wait = milliseconds;
  signal.addEventListener("abort", () => clearTimeout(timer));

  async function start() {
    timer = 0;
    const began = performance.now();
    const isFinished = await work();
    const wanted = isFinished ? performance.now() - began : wait * 2;
    wait = Math.min(Math.max(wanted, milliseconds), MOST_MILLISECONDS);
  }

  return {
    touch() {
      if (!timer && !signal.aborted) timer = setTimeout(start, wait);
    },
  };
}
