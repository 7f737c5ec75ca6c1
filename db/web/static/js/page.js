// What every page loads: the switch of the colours, what changes, and the drawings that the page has.
import { setUpScheme } from "./scheme.js";
import { watch } from "./live.js";

for (const place of document.querySelectorAll("[data-end]")) place.scrollLeft = place.scrollWidth; // what is new is right
setUpScheme(document);
drawAll();
watch(document, drawAll);

/**
 * Draws what the page has, and what came with a change.
 * @returns {Promise<boolean>} whether all values were there; a heat map says itself what it lacks
 */
async function drawAll() {
  if (document.querySelector("[data-heat]")) (await import("./heat.js")).drawHeats(document);
  return document.querySelector("[data-curves]") === null || (await import("./curves.js")).drawCurves(document);
}
