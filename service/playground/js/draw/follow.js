/** Keeps one request on its way and remembers only the newest wish behind it, so that a picture can follow a finger. */

// A request that takes longer is given up once there is a newer wish. Giving up at once would show nothing at all while
// the finger moves, wherever an answer takes longer than the time between two moves.
const PATIENCE_MS = 120;

/** `ask(wish, signal)` is called for the newest wish; `failed(error)` is told of what it throws, but for aborts. */
export function follower(ask, { signal, failed }) {
  let flight = null;
  let waiting = null;
  signal.addEventListener("abort", () => flight?.controller.abort());

  function follow(wish) {
    if (signal.aborted) return;
    waiting = { wish };
    if (!flight) next();
    else giveUpLater(flight);
  }

  function giveUpLater(late) {
    late.timer ??= setTimeout(() => late.controller.abort(), Math.max(0, late.since + PATIENCE_MS - performance.now()));
  }

  async function next() {
    while (waiting && !signal.aborted) {
      const { wish } = waiting;
      waiting = null;
      flight = { controller: new AbortController(), since: performance.now(), timer: null };
      try {
        await ask(wish, flight.controller.signal);
      } catch (error) {
        if (error.name !== "AbortError") failed(error);
      } finally {
        clearTimeout(flight.timer);
        flight = null;
      }
    }
  }

  return follow;
}
