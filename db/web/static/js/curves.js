// Curves over the rounds, drawn by uPlot into the figures that the page has.
import uPlot from "../vendor/uplot.js";
import { areThose, inOrder, linesOf, reading, shown } from "./series.js";

/** @typedef {import("./series.js").Curve} Curve */

/** Agents' lines in the order of their keys: told apart in both schemes, and by the keys, not by colour alone. */
const HUES = [28, 160, 285, 52, 200, 330, 100, 245, 0, 130];
const DASHES = [[], [6, 3], [2, 3]];

/** @type {Map<Element, {version: string, plot: uPlot | null}>} */
const drawn = new Map();
let isListening = false;

/**
 * Draws each figure whose curve is new.
 * @param {Document} document
 * @returns {Promise<boolean>} whether all values could be fetched; what could not is drawn by a later call
 */
export async function drawCurves(document) {
  if (!isListening) {
    document.addEventListener("scheme", () => drawn.forEach(({ plot }) => plot?.redraw(false)));
    isListening = true;
  }
  for (const place of drawn.keys()) if (!place.isConnected) drawn.delete(place);
  /** @type {Map<string, Promise<Curve[] | null>>} */
  const asked = new Map();
  const ask = (/** @type {string} */ url) => {
    if (!asked.has(url)) asked.set(url, fetch(url).then((answer) => (answer.ok ? answer.json() : null)).catch(() => null));
    return /** @type {Promise<Curve[] | null>} */ (asked.get(url));
  };
  const drawing = [];
  for (const place of /** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll("[data-curves]"))) {
    const version = place.dataset.version ?? "";
    const { version: known, plot = null } = drawn.get(place) ?? {};
    if (known === version) continue;
    drawn.set(place, { version, plot });
    drawing.push(draw(place, version, ask));
  }
  return (await Promise.all(drawing)).every(Boolean);
}

/**
 * Draws one figure, unless a later version of it is asked for meanwhile.
 * @param {HTMLElement} place
 * @param {string} version
 * @param {(url: string) => Promise<Curve[] | null>} ask
 * @returns {Promise<boolean>} whether its values could be fetched; if not, what is drawn stays
 */
async function draw(place, version, ask) {
  const answers = await Promise.all((place.dataset.curves ?? "").split(" ").map(ask));
  const now = drawn.get(place);
  if (now?.version !== version) return true;
  const found = answers.filter((curves) => curves !== null);
  const isWhole = found.length === answers.length;
  drawn.set(place, isWhole ? { version, plot: plotted(place, found, now.plot) } : { version: "", plot: now.plot });
  return isWhole;
}

/**
 * Puts curves into a figure: into what is drawn there, if it has the same lines.
 * @param {HTMLElement} place
 * @param {Curve[][]} answers for each run
 * @param {uPlot | null} old
 * @returns {uPlot | null}
 */
function plotted(place, answers, old) {
  const labels = JSON.parse(place.dataset.labels ?? "[]");
  const curves = answers.flatMap((curves, i) =>
    curves.filter((curve) => curve.name === place.dataset.metric).map((curve) => ({ label: labels[i] ?? "", curve })));
  const { rounds, lines, bands } = linesOf(curves);
  const data = /** @type {uPlot.AlignedData} */ ([rounds, ...lines.map((line) => line.values)]);
  if (old && areThose(lines, old.series.slice(1).map(({ label }) => label))) {
    old.setData(data);
    place.closest("figure")?.querySelector("[data-keys] select")?.dispatchEvent(new Event("change")); // it chose a part
    return old;
  }
  old?.destroy();
  if (rounds.length === 0) return null;
  place.replaceChildren(); // the line that stands for it until now
  const colour = colours(place);
  const figure = /** @type {HTMLElement} */ (place.closest("figure"));
  const told = /** @type {HTMLElement} */ (figure.querySelector("[data-reading]"));
  let nth = 0;
  const series = lines.map((line) => {
    const i = line.kind === "agent" || curves.length > 1 ? nth++ : 0;
    return {
      label: line.label,
      scale: "y",
      stroke: () => (curves.length > 1 ? colour.nth(i) : { mean: colour.named("--accent"), agent: colour.nth(i), median: colour.named("--text"), edge: colour.named("--strong-line") }[line.kind]),
      width: line.kind === "mean" ? 2.5 : line.kind === "edge" ? 0.5 : 1.25,
      dash: line.kind === "median" ? [4, 3] : DASHES[(curves.length > 1 ? i : Math.floor(i / HUES.length)) % DASHES.length],
      points: { show: rounds.length <= MANY && line.kind !== "edge", size: line.kind === "mean" ? 6 : 4 },
      spanGaps: true,
    };
  });
  const axis = { stroke: () => colour.named("--muted"), grid: { stroke: () => colour.named("--line"), width: 1 }, ticks: { stroke: () => colour.named("--line"), width: 1, size: 4 }, font: "11px system-ui, sans-serif" };
  const plot = new uPlot(
    {
      width: place.clientWidth,
      height: place.clientHeight,
      legend: { show: false },
      cursor: { y: false, drag: { x: true, y: false } },
      scales: { x: { time: false } },
      axes: [
        { ...axis, size: 28, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 5000] },
        { ...axis, size: 52, values: (_, ticks) => ticks.map((tick) => shown(tick)) },
      ],
      series: [{}, ...series],
      bands: bands.map(([high, low]) => ({ series: [high + 1, low + 1], fill: () => colour.soft() })),
      hooks: {
        destroy: [() => observer.disconnect()],
        setCursor: [
          (plot) => {
            const at = plot.cursor.idx;
            const values = at == null ? [] : inOrder(lines).map((i) => ({ label: lines[i].label, value: plot.series[i + 1].show ? /** @type {number | null} */ (plot.data[i + 1][at]) : null }));
            told.textContent = at == null ? "" : reading(plot.data[0][at], values);
          },
        ],
      },
    },
    data,
    place,
  );
  const observer = new ResizeObserver(() => plot.setSize({ width: place.clientWidth, height: place.clientHeight }));
  observer.observe(place);
  const keys = /** @type {HTMLElement} */ (figure.querySelector("[data-keys]"));
  setKeys(keys, plot, inOrder(lines));
  setPart(keys, plot);
  return plot;
}

/** A check box for each line; they show and hide it. */
function setKeys(/** @type {HTMLElement} */ list, /** @type {uPlot} */ plot, /** @type {number[]} */ order) {
  list.replaceChildren(
    ...order.map((i) => {
      const item = document.createElement("li");
      const label = document.createElement("label");
      const box = document.createElement("input");
      box.type = "checkbox";
      box.checked = true;
      box.addEventListener("change", () => plot.setSeries(i + 1, { show: box.checked }));
      const name = document.createElement("bdi");
      name.textContent = String(plot.series[i + 1].label);
      label.append(box, sample(plot, i + 1), name);
      item.append(label);
      return item;
    }),
  );
}

const PARTS = { "all rounds": 1, "last half": 0.5, "last tenth": 0.1 };
const MANY = 40; // rounds from which on a part of them is worth a look

/** Shows the last part of many rounds: what a mouse does by drawing over the chart. */
function setPart(/** @type {HTMLElement} */ list, /** @type {uPlot} */ plot) {
  const rounds = /** @type {number[]} */ (plot.data[0]);
  if (rounds.length < MANY) return;
  const label = document.createElement("label");
  const select = document.createElement("select");
  select.append(...Object.keys(PARTS).map((name) => new Option(name)));
  select.addEventListener("change", () => {
    const now = /** @type {number[]} */ (plot.data[0]);
    const part = PARTS[/** @type {keyof typeof PARTS} */ (select.value)];
    plot.setScale("x", { min: now[Math.floor((1 - part) * (now.length - 1))], max: now[now.length - 1] });
  });
  label.append("Show", select);
  const item = document.createElement("li");
  item.append(label);
  list.append(item);
}

/** A piece of the line, as the chart draws it. */
function sample(/** @type {uPlot} */ plot, /** @type {number} */ i) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 18 8");
  svg.setAttribute("aria-hidden", "true");
  const line = document.createElementNS("http://www.w3.org/2000/svg", "line");
  for (const [name, value] of Object.entries({ x1: 0, y1: 4, x2: 18, y2: 4, "stroke-width": plot.series[i].width ?? 1 })) line.setAttribute(name, String(value));
  line.setAttribute("stroke-dasharray", (plot.series[i].dash ?? []).join(" "));
  const paint = () => line.setAttribute("stroke", String(/** @type {Function} */ (plot.series[i].stroke)(plot, i)));
  paint();
  document.addEventListener("scheme", paint);
  svg.append(line);
  return svg;
}

/** The page's colours as they are at the moment. */
function colours(/** @type {HTMLElement} */ place) {
  const style = getComputedStyle(place);
  const named = (/** @type {string} */ name) => style.getPropertyValue(name).trim();
  const isDark = () => style.getPropertyValue("color-scheme").trim() === "dark";
  return {
    named,
    nth: (/** @type {number} */ i) => `hsl(${HUES[i % HUES.length]} ${isDark() ? "70% 68%" : "65% 38%"})`,
    soft: () => (isDark() ? "rgb(125 177 255 / 14%)" : "rgb(29 95 191 / 12%)"),
  };
}
