// When a page is fetched again: what concerns it, and not more often than it can be read.

/**
 * Whether a message of `api/changes` is about what a page shows.
 * @param {string} watched a run's id, several apart by spaces, or `*`
 * @param {string} runId
 */
export function concerns(watched, runId) {
  return watched === "*" || watched.split(" ").includes(runId);
}

/**
 * Calls at once, then at most once in a while; the last call is never lost.
 * @param {() => Promise<void>} act never two at a time
 * @param {number} leastMs
 * @param {{now: () => number, later: (act: () => void, ms: number) => void}} clock
 */
export function paced(act, leastMs, clock) {
  let last = -Infinity;
  let isBusy = false;
  let isDue = false;
  const run = async () => {
    isBusy = true;
    isDue = false;
    try {
      await act();
    } finally {
      last = clock.now();
      isBusy = false;
      if (isDue) wait();
    }
  };
  const wait = () => {
    isBusy = true;
    clock.later(run, Math.max(0, last + leastMs - clock.now()));
  };
  return () => {
    isDue = true;
    if (!isBusy) wait();
  };
}
