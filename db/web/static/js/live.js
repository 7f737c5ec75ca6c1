// A page that stays true: where the database tells that a run moved, the page is fetched again and what differs
// is put in its place. Elements stay the same, so that focus, selection, scrolling and open parts do.
import { Idiomorph } from "../vendor/idiomorph.js";
import { concerns, paced } from "./pace.js";

const LEAST_MS = 1000; // between two fetches, however much moves
const AGAIN_MS = 5000; // after an answer that was none

/**
 * Follows the database as long as the page is open.
 * @param {Document} document
 * @param {() => Promise<boolean>} redraw draws what came; false: not all of it
 */
export function watch(document, redraw) {
  const watched = document.body.dataset.watch;
  const told = /** @type {HTMLElement} */ (document.getElementById("link"));
  if (!watched) return;
  const show = (/** @type {string} */ state, /** @type {string} */ words) => {
    if (told.dataset.state === state) return;
    told.dataset.state = state;
    told.textContent = words;
    told.hidden = false;
  };
  const clock = { now: () => performance.now(), later: (/** @type {() => void} */ act, /** @type {number} */ ms) => void setTimeout(act, ms) };
  const refresh = paced(async () => (await refreshed(document)) && redraw(), LEAST_MS, clock, AGAIN_MS);
  let before = "";
  const listening = () => {
    const opened = new EventSource(`${document.body.dataset.root}/api/changes`);
    opened.addEventListener("heads", (event) => {
      show("live", "Live");
      const heads = /** @type {MessageEvent<string>} */ (event).data;
      if (before !== heads) refresh(); // it may have moved since the page was made, or while nobody listened
      before = heads;
    });
    opened.addEventListener("message", (event) => {
      before = "";
      if (concerns(watched, JSON.parse(event.data).run_id)) refresh();
    });
    opened.addEventListener("trouble", () => show("lost", "The database cannot be read"));
    opened.addEventListener("error", () => {
      show("lost", "Connection lost, trying again");
      // A browser does so by itself where the line breaks, but not after an answer such as 502 or 503.
      if (opened.readyState === EventSource.CLOSED) clock.later(() => reopen(opened), AGAIN_MS);
    });
    return opened;
  };
  /** @type {EventSource | null} */
  let source = null;
  const follow = () => {
    // A browser has six connections to a host, for all tabs: one that nobody looks at must not hold one.
    if (document.hidden) source?.close();
    source = document.hidden ? null : (source ?? listening());
  };
  const reopen = (/** @type {EventSource} */ closed) => {
    if (source !== closed) return;
    source = null;
    follow();
  };
  document.addEventListener("visibilitychange", follow);
  follow();
}

/**
 * Fetches the page again and puts what differs into its place.
 * @param {Document} document
 * @returns {Promise<boolean>} whether the server could say what the page is now, or that there is none
 */
async function refreshed(document) {
  const answer = await fetch(document.location.href, { headers: { Accept: "text/html" } }).catch(() => null);
  if (!answer?.ok) return answer !== null && answer.status < 500;
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const old of document.querySelectorAll("[data-live]")) {
    const next = fresh.getElementById(old.id);
    if (next && !next.isEqualNode(old)) put(old, next);
  }
  return true;
}

/** What scripts have made of these parts is theirs: a drawing, its keys, what a reader opened. */
function put(/** @type {Element} */ old, /** @type {Element} */ next) {
  Idiomorph.morph(old, next, {
    restoreFocus: true,
    callbacks: {
      beforeNodeMorphed: (/** @type {Node} */ from, /** @type {Node} */ to) => {
        if (!(from instanceof HTMLElement) || !(to instanceof HTMLElement)) return true;
        if (from.matches("form, [data-keys], [data-reading], [data-drawn]")) return false;
        if (from.matches("[data-curves], [data-heat]")) {
          for (const { name, value } of to.attributes) from.setAttribute(name, value);
          return false;
        }
        if (from instanceof HTMLDetailsElement && from.open) to.setAttribute("open", "");
        return true;
      },
    },
  });
}
