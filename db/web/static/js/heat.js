// The heat map of agents and rounds: a canvas, its axes, what is under the pointer, and a table of the same.
import { SHADES, between, cell, cells, cellsOf, ordered, rangeOf, rowsOf, shade, told } from "./grid.js";
import { shown } from "./series.js";

/** @typedef {import("./grid.js").Heat} Heat */
/** @typedef {import("./grid.js").Row} Row */

const LABEL = 150; // pixels left of the cells, for names
const HEAD = 22; // above them, for rounds
const ROWS = [3, 24]; // least and largest height of a row
const TALLEST = 900; // pixels that rows may take before they get lower
const MOST = 16000; // dots of a screen that a canvas may have, in browsers of all makes
const NAMED = 12; // a row as high as that has its agent's name

/** @type {WeakMap<Element, HeatMap>} */
const maps = new WeakMap();

/**
 * Draws each map that is new or has changed.
 * @param {Document} document
 */
export function drawHeats(document) {
  for (const place of /** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll("[data-heat]"))) {
    if (!maps.has(place)) maps.set(place, new HeatMap(place));
    void maps.get(place)?.load();
  }
}

class HeatMap {
  /** @param {HTMLElement} place */
  constructor(place) {
    this.place = place;
    const figure = /** @type {HTMLElement} */ (place.closest("figure"));
    this.form = /** @type {HTMLFormElement} */ (figure.querySelector("[data-heat-form]"));
    this.measure = /** @type {HTMLSelectElement} */ (this.form.elements.namedItem("measure"));
    this.order = /** @type {HTMLSelectElement} */ (this.form.elements.namedItem("order"));
    this.reading = /** @type {HTMLElement} */ (figure.querySelector("[data-reading]"));
    this.table = /** @type {HTMLElement} */ (figure.querySelector("[data-heat-table]"));
    this.canvas = document.createElement("canvas");
    this.canvas.tabIndex = 0;
    this.canvas.setAttribute("role", "img");
    this.map = document.createElement("canvas"); // without what is read, so that to point is quick
    this.loaded = "";
    this.width = 0; // for which it was drawn
    /** @type {Heat | null} */
    this.heat = null;
    /** @type {Row[]} */
    this.rows = [];
    /** @type {Set<string>} */
    this.odd = new Set();
    /** @type {Row[]} in the order in which they are drawn */
    this.drawn = [];
    /** @type {[number, number] | null} the row and column that is read */
    this.at = null;
    this.form.addEventListener("submit", (event) => event.preventDefault());
    this.measure.addEventListener("change", () => void this.load());
    this.order.addEventListener("change", () => this.draw());
    this.canvas.addEventListener("pointermove", (event) => this.point(event));
    this.canvas.addEventListener("keydown", (event) => this.step(event));
    document.addEventListener("scheme", () => this.draw());
    new ResizeObserver(() => {
      if (Math.abs(this.canvas.clientWidth - this.width) >= 1) this.draw();
    }).observe(place);
  }

  /** Asks for the values, if they may have changed, and again as long as more of them is known each time. */
  async load(missing = Infinity) {
    const { heat: url, first, last, version } = this.place.dataset;
    const wanted = `${this.measure.value}|${first}|${last}|${version}`;
    if (wanted === this.loaded && missing === Infinity) return;
    this.loaded = wanted;
    if (!this.heat) this.tell("Measuring what is not known yet …");
    const measure = this.measure.value ? `&measure=${encodeURIComponent(this.measure.value)}` : "";
    const answer = await fetch(`${url}?first=${first}&last=${last}${measure}`).catch(() => null);
    const found = await answer?.json().catch(() => null);
    if (wanted !== this.loaded) return; // another one was asked for meanwhile
    if (!answer?.ok) {
      this.tell(`There is no heat map: ${found?.detail ?? "the server does not answer"}`);
      return;
    }
    this.heat = /** @type {Heat} */ (found);
    this.rows = rowsOf(this.heat);
    this.odd = new Set(this.heat.outliers.map(([agent, round]) => `${agent},${round}`));
    this.show();
    const left = Object.keys(this.heat.missing ?? {}).length; // the server measures a part each time
    if (left && left < missing) await this.load(left);
  }

  /** @param {string} words */
  tell(words) {
    const note = document.createElement("p");
    note.className = "note";
    note.textContent = words;
    this.place.replaceChildren(note);
  }

  show() {
    const heat = /** @type {Heat} */ (this.heat);
    if (heat.rounds.length === 0) {
      this.tell("No update counts in these rounds yet.");
      return;
    }
    this.measure.replaceChildren(
      ...heat.measures.map((name) => new Option(name.replace(/^train_/, "training: "), name, false, name === heat.measure)),
    );
    this.loaded = this.loaded.replace(/^[^|]*/, heat.measure);
    this.form.hidden = false;
    const why = [...new Set(Object.values(heat.missing ?? {}))];
    const note = document.createElement("p");
    note.className = "note";
    note.textContent = `${told(heat, this.rows)}${why.length ? ` Not known of ${Object.keys(heat.missing ?? {}).length} rounds: ${why[0]}` : ""}`;
    this.canvas.setAttribute("aria-label", `${heat.measure} of each agent's update in each round. ${note.textContent} Arrow keys read one after the other.`);
    this.place.replaceChildren(note, this.canvas);
    this.setTable();
    this.draw();
  }

  /** Where things are, in pixels of the page. */
  get size() {
    const heat = /** @type {Heat} */ (this.heat);
    const width = this.place.clientWidth;
    const label = Math.min(LABEL, Math.floor(width / 3));
    const row = Math.max(ROWS[0], Math.min(ROWS[1], Math.floor(TALLEST / heat.agents.length)));
    return { label, row, width, across: width - label, height: HEAD + row * heat.agents.length };
  }

  /** Dots of the screen for a pixel of the page: fewer, and less sharp, where a canvas cannot have so many. */
  get ratio() {
    const { width, height } = this.size;
    return Math.min(devicePixelRatio || 1, MOST / Math.max(width, height));
  }

  draw() {
    if (!this.heat || !this.canvas.isConnected) return;
    const { heat } = this;
    const { label, row, width, across, height } = this.size;
    this.width = width;
    const ratio = this.ratio;
    for (const canvas of [this.canvas, this.map]) {
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
    }
    const pen = /** @type {CanvasRenderingContext2D} */ (this.map.getContext("2d"));
    pen.scale(ratio, ratio);
    const style = getComputedStyle(this.place);
    const named = (/** @type {string} */ name) => style.getPropertyValue(name).trim();
    const ends = /** @type {[[number, number, number], [number, number, number]]} */ ([rgb(named("--accent-soft")), rgb(named("--accent"))]);
    this.drawn = ordered(this.rows, this.order.value, heat.measure);
    this.paint(pen, palette(named("--ground"), ...ends), ratio);
    const place = new Map(this.drawn.map((entry, i) => [entry.place, i]));
    const [ink, surface] = [named("--bad"), named("--surface")];
    for (const [agent, j] of heat.outliers) {
      const [x, w] = cell(j, heat.rounds.length, across);
      cross(pen, label + x, HEAD + row * (place.get(agent) ?? 0), w, row, ink, surface);
    }
    this.write(pen, named("--muted"));
    this.frame(named("--text"));
  }

  /** All cells at once, pixel by pixel: there may be a million. */
  paint(/** @type {CanvasRenderingContext2D} */ pen, /** @type {Uint32Array} */ colours, /** @type {number} */ ratio) {
    const heat = /** @type {Heat} */ (this.heat);
    const { label, row, across } = this.size;
    const [width, gap] = [Math.round(across * ratio), Math.round(ratio)];
    const columns = cellsOf(heat.rounds.length, width, gap);
    const height = Math.round(row * heat.agents.length * ratio);
    const lines = cells(heat.agents.length, height, gap);
    const range = rangeOf(heat.values);
    const image = pen.createImageData(width, height);
    const pixels = new Uint32Array(image.data.buffer);
    this.drawn.forEach(({ place }, i) => {
      const shades = heat.values[place].map((value) => colours[shade(value, range) + 1]);
      const [line, filled] = lines[i];
      const begin = line * width;
      for (let x = 0; x < width; x++) if (columns[x] >= 0) pixels[begin + x] = shades[columns[x]];
      for (let y = 1; y < filled; y++) pixels.copyWithin(begin + y * width, begin, begin + width);
    });
    pen.putImageData(image, Math.round(label * ratio), Math.round(HEAD * ratio));
  }

  /** Names of agents and numbers of rounds, as many as there is room for. */
  write(/** @type {CanvasRenderingContext2D} */ pen, /** @type {string} */ ink) {
    const heat = /** @type {Heat} */ (this.heat);
    const { label, row, across } = this.size;
    pen.fillStyle = ink;
    pen.font = "11px system-ui, sans-serif";
    pen.textBaseline = "middle";
    const every = Math.ceil(NAMED / row);
    this.drawn.forEach(({ name }, i) => {
      if (i % every === 0) pen.fillText(shortened(pen, name, label - 8), 0, HEAD + row * i + row / 2);
    });
    const widest = pen.measureText(String(heat.rounds[heat.rounds.length - 1])).width + 8;
    const step = Math.max(1, Math.ceil((widest * heat.rounds.length) / across));
    pen.textAlign = "center";
    for (let j = 0; j < heat.rounds.length; j += step) {
      const [x, w] = cell(j, heat.rounds.length, across);
      pen.fillText(String(heat.rounds[j]), label + x + w / 2, HEAD / 2);
    }
  }

  /** The map, and a frame around what is read. */
  frame(/** @type {string} */ ink) {
    const heat = /** @type {Heat} */ (this.heat);
    const { label, row, across } = this.size;
    const pen = /** @type {CanvasRenderingContext2D} */ (this.canvas.getContext("2d"));
    pen.resetTransform();
    pen.drawImage(this.map, 0, 0);
    if (!this.at) return;
    const ratio = this.ratio;
    pen.scale(ratio, ratio);
    const [x, w] = cell(this.at[1], heat.rounds.length, across);
    pen.strokeStyle = ink;
    pen.lineWidth = 2;
    pen.strokeRect(label + x, HEAD + row * this.at[0], w, row);
  }

  point(/** @type {PointerEvent} */ event) {
    if (!this.heat) return;
    const { label, row, across } = this.size;
    const place = this.canvas.getBoundingClientRect();
    const i = Math.floor((event.clientY - place.top - HEAD) / row);
    const j = Math.floor(((event.clientX - place.left - label) * this.heat.rounds.length) / across);
    this.read(i, j);
  }

  step(/** @type {KeyboardEvent} */ event) {
    /** @type {Record<string, [number, number]>} */
    const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    const step = steps[event.key];
    if (!step || !this.heat) return;
    event.preventDefault();
    const [i, j] = this.at ?? [0, this.heat.rounds.length - 1];
    if (!this.at) this.read(i, j);
    else this.read(i + step[0], j + step[1]);
  }

  /** Tells what a cell is. */
  read(/** @type {number} */ i, /** @type {number} */ j) {
    const heat = /** @type {Heat} */ (this.heat);
    const row = this.drawn[i];
    if (!row || heat.rounds[j] === undefined) return;
    this.at = [i, j];
    const isOdd = this.odd.has(`${row.place},${j}`);
    this.reading.textContent = `${row.name}, round ${heat.rounds[j]}: ${heat.measure} ${shown(heat.values[row.place][j])}${isOdd ? ", an outlier" : ""}`;
    this.frame(getComputedStyle(this.place).getPropertyValue("--text").trim());
  }

  /** The same for who cannot see it: each agent in numbers. */
  setTable() {
    const heat = /** @type {Heat} */ (this.heat);
    const table = document.createElement("table");
    const caption = table.createCaption();
    caption.textContent = `${heat.measure} of the agents' updates, rounds ${heat.rounds[0]} to ${heat.rounds[heat.rounds.length - 1]}`;
    const head = table.createTHead().insertRow();
    for (const name of ["Agent", "Updates", "Outliers", "Least", "Mean", "Largest", "Last"]) {
      const cell = document.createElement("th");
      cell.scope = "col";
      cell.textContent = name;
      head.append(cell);
    }
    const body = table.createTBody();
    for (const row of ordered(this.rows, "odd", heat.measure).slice(0, 200)) {
      const line = body.insertRow();
      const name = document.createElement("th");
      name.scope = "row";
      name.className = "name";
      name.append(Object.assign(document.createElement("bdi"), { textContent: row.name }));
      line.append(name);
      const values = [row.known, row.outliers, row.least, row.mean, row.largest, heat.values[row.place].findLast((value) => value !== null)];
      for (const value of values) {
        const cell = line.insertCell();
        cell.className = "number";
        cell.textContent = shown(value);
      }
    }
    const around = document.createElement("div");
    around.className = "scroll tall";
    around.tabIndex = 0;
    around.setAttribute("role", "region");
    around.setAttribute("aria-label", caption.textContent);
    around.append(table);
    this.table.replaceChildren(around);
    /** @type {HTMLElement} */ (this.table.parentElement).hidden = false;
  }
}

function cross(/** @type {CanvasRenderingContext2D} */ pen, /** @type {number} */ x, /** @type {number} */ y, /** @type {number} */ w, /** @type {number} */ h, /** @type {string} */ ink, /** @type {string} */ ground) {
  if (w < 6 || h < 6) {
    pen.fillStyle = ink;
    pen.fillRect(x, y, w, h);
    return;
  }
  const s = Math.min(w, h) * 0.28;
  for (const [colour, width] of /** @type {[string, number][]} */ ([[ground, 4], [ink, 2]])) {
    pen.strokeStyle = colour;
    pen.lineWidth = width;
    pen.beginPath();
    pen.moveTo(x + w / 2 - s, y + h / 2 - s);
    pen.lineTo(x + w / 2 + s, y + h / 2 + s);
    pen.moveTo(x + w / 2 + s, y + h / 2 - s);
    pen.lineTo(x + w / 2 - s, y + h / 2 + s);
    pen.stroke();
  }
}

/** Pixels as a canvas has them: of what is not known, then of each shade. */
function palette(/** @type {string} */ ground, /** @type {[number, number, number]} */ from, /** @type {[number, number, number]} */ to) {
  const shades = Array.from({ length: SHADES }, (_, i) => between(i / (SHADES - 1), from, to));
  const bytes = [rgb(ground), ...shades].flatMap((colour) => [...colour, 255]);
  return new Uint32Array(Uint8Array.from(bytes).buffer);
}

/** @returns {[number, number, number]} of a colour `#rrggbb` */
function rgb(/** @type {string} */ colour) {
  return /** @type {[number, number, number]} */ ([1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16)));
}

function shortened(/** @type {CanvasRenderingContext2D} */ pen, /** @type {string} */ text, /** @type {number} */ width) {
  if (pen.measureText(text).width <= width) return text;
  let end = text.length;
  while (end > 1 && pen.measureText(`${text.slice(0, end)}…`).width > width) end -= 1;
  return `${text.slice(0, end)}…`;
}
