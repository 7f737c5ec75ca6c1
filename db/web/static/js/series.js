// What the charts compute before they draw: numbers only, no document.

/** @typedef {{source: string, name: string, rounds: number[], mean: (number | null)[],
 *   agents: Record<string, (number | null)[]> | null, quantiles: Record<string, (number | null)[]> | null}} Curve */
/** @typedef {{label: string, values: (number | null)[], kind: "mean" | "agent" | "median" | "edge"}} Line */

/**
 * The lines of some curves of one metric, and the rounds that they share.
 * @param {{label: string, curve: Curve}[]} curves several where runs are compared
 * @returns {{rounds: number[], lines: Line[], bands: [number, number][]}} bands: pairs of lines with an area between
 */
export function linesOf(curves) {
  const rounds = [...new Set(curves.flatMap(({ curve }) => curve.rounds))].sort((a, b) => a - b);
  /** @type {Line[]} */
  const lines = [];
  /** @type {[number, number][]} */
  const bands = [];
  for (const { label, curve } of curves) {
    const place = new Map(curve.rounds.map((round, i) => [round, i]));
    const spread = (/** @type {(number | null)[]} */ values) => rounds.map((round) => values[place.get(round) ?? -1] ?? null);
    const mean = /** @type {Line} */ ({ label: label || "mean", values: spread(curve.mean), kind: "mean" });
    if (curves.length > 1) {
      lines.push(mean);
      continue;
    }
    for (const [name, values] of Object.entries(curve.agents ?? {})) lines.push({ label: name, values: spread(values), kind: "agent" });
    const { p10, p25, p50, p75, p90 } = curve.quantiles ?? {};
    if (p50) {
      const first = lines.length;
      lines.push({ label: "median of the agents", values: spread(p50), kind: "median" });
      for (const [name, values] of [["10 %", p10], ["25 %", p25], ["75 %", p75], ["90 %", p90]])
        lines.push({ label: `${name} of the agents`, values: spread(/** @type {number[]} */ (values)), kind: "edge" });
      bands.push([first + 4, first + 1], [first + 3, first + 2]);
    }
    lines.push(mean); // the last is drawn above all others
  }
  return { rounds, lines, bands };
}

/**
 * Whether lines are those that a chart has, so that it can take their values as they are.
 * @param {Line[]} lines
 * @param {unknown[]} labels of the chart's lines: as many need not be the same, five agents and five quantiles are not
 */
export function areThose(lines, labels) {
  return lines.length === labels.length && lines.every(({ label }, i) => label === labels[i]);
}

/**
 * The places of lines in the order in which a reader meets them: the mean first.
 * @param {Line[]} lines
 */
export function inOrder(lines) {
  const places = lines.map((_, i) => i);
  return [...places.filter((i) => lines[i].kind === "mean"), ...places.filter((i) => lines[i].kind !== "mean")];
}

/**
 * A number in four significant digits, as the server shows it.
 * @param {number | null | undefined} value
 */
export function shown(value) {
  if (value === null || value === undefined) return "–";
  if (Number.isInteger(value)) return String(value).replace("-", "−");
  const size = Math.abs(value);
  const text = size < 1e-5 || size >= 1e9 ? value.toExponential(3) : String(Number(value.toPrecision(4)));
  return text.replace(/^-/, "−");
}

/**
 * What the lines are in one round, in words.
 * @param {number} round
 * @param {{label: string, value: number | null}[]} values
 * @param {number} most lines that are named
 */
export function reading(round, values, most = 6) {
  const known = values.filter(({ value }) => value !== null);
  const named = known.slice(0, most).map(({ label, value }) => `${label} ${shown(value)}`);
  const more = known.length > most ? `, and ${known.length - most} more` : "";
  return `Round ${round}: ${named.join(", ") || "no value"}${more}`;
}
