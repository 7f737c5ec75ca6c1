// What every page loads: the switch of the colours, what changes, and the drawings that the page has.
import { setUpScheme } from "./scheme.js";
import { watch } from "./live.js";

for (const place of document.querySelectorAll("[data-end]")) place.scrollLeft = place.scrollWidth; // what is new is right
setUpScheme(document);
drawAll();
watch(document, drawAll);

/** Draws what the page has, and what came with a change. */
async function drawAll() {
  if (document.querySelector("[data-curves]")) (await import("./curves.js")).drawCurves(document);
  if (document.querySelector("[data-heat]")) (await import("./heat.js")).drawHeats(document);
}
