/** Asynchronous work that keeps being asked for: only the latest counts, or it runs at most so often. */

const MAX_WAIT_MILLISECONDS = 1000;

/**
 * Work of which only the latest counts: `run` aborts what ran before, waits `debounce` milliseconds, works and returns its
 * result; undefined where a newer call or `cancel` took its place. `signal` ends it for good.
 *
 * @param {{debounce?: number, signal?: AbortSignal}} [options]
 */
export function latest({ debounce = 0, signal: outer } = {}) {
  /** @type {AbortController | null} */
  let controller = null;
  const cancel = () => controller?.abort();
  outer?.addEventListener("abort", cancel);

  /**
   * @template Result
   * @param {(signal: AbortSignal) => Promise<Result> | Result} work
   * @returns {Promise<Result | undefined>}
   */
  async function run(work) {
    cancel();
    if (outer?.aborted) return undefined;
    const mine = new AbortController();
    controller = mine;
    if (debounce) await pause(debounce, mine.signal);
    if (mine.signal.aborted) return undefined;
    try {
      const result = await work(mine.signal);
      return mine.signal.aborted ? undefined : result;
    } catch (error) {
      if (mine.signal.aborted) return undefined;
      throw error;
    }
  }

  return { run, cancel };
}

/**
 * Wait some milliseconds, or until the signal aborts.
 *
 * @param {number} milliseconds
 * @param {AbortSignal} [signal]
 * @returns {Promise<void>}
 */
export function pause(milliseconds, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(done, signal?.aborted ? 0 : milliseconds);
    function done() {
      clearTimeout(timer);
      signal?.removeEventListener("abort", done);
      resolve();
    }
    signal?.addEventListener("abort", done);
  });
}

/**
 * Work on something that keeps changing: `touch` asks for `work` soon, at most once in `milliseconds`. One runs at a time,
 * unless it takes longer than a second: then the next takes its place. `flush` works at once. The state after the last
 * call is always worked on; `signal` ends it.
 *
 * @param {() => Promise<unknown>} work
 * @param {{milliseconds: number, signal: AbortSignal}} options
 */
export function paced(work, { milliseconds, signal }) {
  let timer = 0;
  let began = -Infinity;
  let numStarted = 0;
  let isRunning = false;
  let isTouched = false;
  signal.addEventListener("abort", () => clearTimeout(timer));

  function plan() {
    clearTimeout(timer);
    const wait = isRunning ? MAX_WAIT_MILLISECONDS : milliseconds;
    timer = setTimeout(start, Math.max(0, began + wait - performance.now()));
  }

  async function start() {
    clearTimeout(timer);
    timer = 0;
    if (signal.aborted) return;
    numStarted += 1;
    const mine = numStarted;
    began = performance.now();
    isRunning = true;
    isTouched = false;
    try {
      await work();
    } finally {
      if (mine === numStarted) {
        isRunning = false;
        if (isTouched) plan();
      }
    }
  }

  return {
    touch() {
      isTouched = true;
      if (!timer && !signal.aborted) plan();
    },
    flush: start,
  };
}
