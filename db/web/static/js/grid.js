// What the heat map computes before it draws: numbers only, no document.

/** @typedef {{measure: string, measures: string[], rounds: number[], agents: string[], values: (number | null)[][],
 *   outliers: [number, number][], missing?: Record<string, string>}} Heat */
/** @typedef {{place: number, name: string, known: number, mean: number | null, largest: number | null, least: number | null, outliers: number}} Row */

/**
 * Each agent in numbers.
 * @param {Heat} heat
 * @returns {Row[]}
 */
export function rowsOf(heat) {
  const outliers = new Map();
  for (const [agent] of heat.outliers) outliers.set(agent, (outliers.get(agent) ?? 0) + 1);
  return heat.agents.map((name, place) => {
    const known = heat.values[place].filter((value) => value !== null);
    const sum = known.reduce((total, value) => total + value, 0);
    return {
      place,
      name,
      known: known.length,
      mean: known.length ? sum / known.length : null,
      largest: known.length ? known.reduce((a, b) => Math.max(a, b)) : null,
      least: known.length ? known.reduce((a, b) => Math.min(a, b)) : null,
      outliers: outliers.get(place) ?? 0,
    };
  });
}

/**
 * The agents in the order in which they are drawn. A small cosine is odd, of all else a large value.
 * @param {Row[]} rows
 * @param {string} order `odd` or `joined`
 * @param {string} measure
 */
export function ordered(rows, order, measure) {
  if (order !== "odd") return rows;
  const sign = measure === "cosine" ? -1 : 1;
  const oddness = (/** @type {Row} */ row) => (row.mean === null ? -Infinity : sign * row.mean);
  return [...rows].sort((a, b) => b.outliers - a.outliers || oddness(b) - oddness(a) || a.place - b.place);
}

/**
 * The values between which colours go: all but the largest and the least hundredth, so that one value does not
 * leave all others without a difference.
 * @param {(number | null)[][]} values
 * @returns {[number, number]}
 */
export function rangeOf(values) {
  const known = Float64Array.from(values.flatMap((line) => line.filter((value) => value !== null))).sort();
  if (known.length === 0) return [0, 1];
  const at = (/** @type {number} */ part) => known[Math.round(part * (known.length - 1))];
  const [low, high] = known.length < 100 ? [at(0), at(1)] : [at(0.01), at(0.99)];
  return low === high ? [low - 0.5, high + 0.5] : [low, high];
}

/**
 * A colour between two others.
 * @param {number} part from 0 to 1; what is beyond counts as that
 * @param {[number, number, number]} from
 * @param {[number, number, number]} to
 * @returns {[number, number, number]}
 */
export function between(part, from, to) {
  const t = Math.min(1, Math.max(0, part));
  return /** @type {[number, number, number]} */ (from.map((begin, i) => Math.round(begin + t * (to[i] - begin))));
}

/**
 * The pixel rows or columns of one of several equal cells.
 * @param {number} i
 * @param {number} count
 * @param {number} pixels
 * @returns {[number, number]} where it begins, and how long it is: at least one
 */
export function cell(i, count, pixels) {
  const begin = Math.floor((i * pixels) / count);
  return [begin, Math.max(1, Math.floor(((i + 1) * pixels) / count) - begin)];
}

/** How many colours lie between the ends. */
export const SHADES = 256;

/**
 * The shade of a value: from 0 to `SHADES` - 1, and -1 where there is none.
 * @param {number | null} value
 * @param {[number, number]} range
 */
export function shade(value, [low, high]) {
  if (value === null) return -1;
  const part = Math.min(1, Math.max(0, (value - low) / (high - low)));
  return Math.round(part * (SHADES - 1));
}

/**
 * Cells beside each other, in whole pixels, though their bounds need not be any: a screen may have 1.5 pixels for one of
 * the page. None lies elsewhere than its share of all, so that the last is still beside its name.
 * @param {number} count
 * @param {number} pixels of all together
 * @param {number} gap pixels at the end of each that are left free, where it has room for them
 * @returns {[number, number][]} where each begins, and how many pixels are filled
 */
export function cells(count, pixels, gap) {
  return Array.from({ length: count }, (_, i) => {
    const [begin, length] = cell(i, count, pixels);
    return [begin, Math.max(1, length > 6 * gap ? length - gap : length)];
  });
}

/**
 * Which cell each pixel of a line belongs to; of gaps -1.
 * @param {number} count of cells
 * @param {number} pixels
 * @param {number} gap as of `cells`
 * @returns {Int32Array}
 */
export function cellsOf(count, pixels, gap) {
  const found = new Int32Array(pixels).fill(-1);
  cells(count, pixels, gap).forEach(([begin, filled], i) => found.fill(i, begin, begin + filled));
  return found;
}

/** What the map shows, in one sentence. */
export function told(/** @type {Heat} */ heat, /** @type {Row[]} */ rows) {
  const odd = rows.filter((row) => row.outliers).sort((a, b) => b.outliers - a.outliers);
  const named = odd.slice(0, 3).map((row) => `${row.name} in ${row.outliers} of ${row.known} rounds`);
  const more = odd.length > 3 ? `, and ${odd.length - 3} more agents` : "";
  const size = `${heat.agents.length} agents, ${heat.rounds.length} rounds`;
  return odd.length ? `${size}. Outliers: ${named.join(", ")}${more}.` : `${size}. No outlier.`;
}
