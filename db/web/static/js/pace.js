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
 * @param {() => Promise<boolean | void>} act never two at a time; false: nothing came of it, it is tried again
 * @param {number} leastMs
 * @param {{now: () => number, later: (act: () => void, ms: number) => void}} clock
 * @param {number} againMs until it is tried again
 */
export function paced(act, leastMs, clock, againMs) {
  let last = -Infinity;
  let isBusy = false;
  let isDue = false;
  const run = async () => {
    isBusy = true;
    isDue = false;
    try {
      if ((await act()) === false) clock.later(call, againMs);
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
  const call = () => {
    isDue = true;
    if (!isBusy) wait();
  };
  return call;
}
