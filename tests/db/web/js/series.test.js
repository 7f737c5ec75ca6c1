import assert from "node:assert/strict";
import { test } from "node:test";
import { areThose, inOrder, linesOf, reading, shown } from "../../../../db/web/static/js/series.js";

const curve = (more) => ({ source: "evaluate", name: "loss", rounds: [1, 2], mean: [0.5, 0.25], agents: null, quantiles: null, ...more });

test("the mean is drawn above the agents' lines and read before them", () => {
  const { rounds, lines, bands } = linesOf([{ label: "", curve: curve({ agents: { a: [0.6, 0.3], b: [null, 0.2] } }) }]);
  assert.deepEqual(rounds, [1, 2]);
  assert.deepEqual(lines.map(({ label, kind }) => [label, kind]), [["a", "agent"], ["b", "agent"], ["mean", "mean"]]);
  assert.deepEqual(lines[1].values, [null, 0.2]);
  assert.deepEqual(inOrder(lines).map((i) => lines[i].label), ["mean", "a", "b"]);
  assert.deepEqual(bands, []);
});

test("many agents are a median between two bands", () => {
  const quantiles = { p10: [1, 1], p25: [2, 2], p50: [3, 3], p75: [4, 4], p90: [5, 5] };
  const { lines, bands } = linesOf([{ label: "", curve: curve({ quantiles }) }]);
  assert.deepEqual(bands.map(([high, low]) => [lines[high].values[0], lines[low].values[0]]), [[5, 1], [4, 2]]);
  assert.equal(lines.at(-1).kind, "mean");
});

test("a chart of five agents does not take five quantiles for them", () => {
  const quantiles = { p10: [1, 1], p25: [2, 2], p50: [3, 3], p75: [4, 4], p90: [5, 5] };
  const few = linesOf([{ label: "", curve: curve({ agents: { a: [1], b: [1], c: [1], d: [1], e: [1] } }) }]).lines;
  const many = linesOf([{ label: "", curve: curve({ quantiles }) }]).lines;
  const labels = few.map(({ label }) => label);
  assert.equal(many.length, labels.length);
  assert.ok(areThose(few, labels));
  assert.ok(!areThose(many, labels));
  assert.ok(!areThose(few.slice(1), labels));
});

test("two runs share the rounds that one of them has", () => {
  const other = curve({ rounds: [2, 3], mean: [0.4, 0.3], agents: { a: [1, 1] } });
  const { rounds, lines } = linesOf([{ label: "first", curve: curve() }, { label: "second", curve: other }]);
  assert.deepEqual(rounds, [1, 2, 3]);
  assert.deepEqual(lines, [
    { label: "first", values: [0.5, 0.25, null], kind: "mean" },
    { label: "second", values: [null, 0.4, 0.3], kind: "mean" },
  ]);
});

test("no curve has no line", () => {
  assert.deepEqual(linesOf([]), { rounds: [], lines: [], bands: [] });
});

test("numbers are shown in four digits", () => {
  assert.deepEqual([0.123456, 12, -3, -0.5, 1e-7, 123456.7, null, undefined].map(shown), ["0.1235", "12", "−3", "−0.5", "1.000e-7", "123500", "–", "–"]);
});

test("a round is read in one sentence, however many lines there are", () => {
  const values = ["a", "b", "c"].map((label, i) => ({ label, value: i === 1 ? null : i / 2 }));
  assert.equal(reading(7, values), "Round 7: a 0, c 1");
  assert.equal(reading(7, values, 1), "Round 7: a 0, and 1 more");
  assert.equal(reading(7, []), "Round 7: no value");
});
