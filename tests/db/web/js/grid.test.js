import assert from "node:assert/strict";
import { test } from "node:test";
import { SHADES, between, cell, cells, cellsOf, ordered, rangeOf, rowsOf, shade, told } from "../../../../db/web/static/js/grid.js";

const heat = {
  measure: "distance",
  measures: ["distance"],
  rounds: [1, 2, 3],
  agents: ["a", "b", "c"],
  values: [[1, 2, null], [9, 8, 7], [null, null, null]],
  outliers: [[1, 0], [1, 2]],
};

test("each agent is told in numbers", () => {
  const [a, b, c] = rowsOf(heat);
  assert.deepEqual(a, { place: 0, name: "a", known: 2, mean: 1.5, largest: 2, least: 1, outliers: 0 });
  assert.deepEqual([b.mean, b.outliers], [8, 2]);
  assert.deepEqual([c.known, c.mean, c.largest], [0, null, null]);
});

test("the oddest agent comes first: outliers, then large values, of cosines small ones", () => {
  const rows = rowsOf({ ...heat, outliers: [] });
  const names = (order, measure) => ordered(rows, order, measure).map(({ name }) => name);
  assert.deepEqual(names("odd", "distance"), ["b", "a", "c"]);
  assert.deepEqual(names("odd", "cosine"), ["a", "b", "c"]);
  assert.deepEqual(names("joined", "distance"), ["a", "b", "c"]);
  assert.deepEqual(ordered(rowsOf({ ...heat, outliers: [[2, 0]] }), "odd", "distance")[0].name, "c");
});

test("one huge value among many leaves the others a difference", () => {
  const values = [Array.from({ length: 200 }, (_, i) => i), [1e9]];
  assert.deepEqual(rangeOf(values), [2, 198]); // of 201 values the 3rd and the 199th
  assert.deepEqual(rangeOf([[3, 4]]), [3, 4]);
  assert.deepEqual(rangeOf([[3, 3]]), [2.5, 3.5]);
  assert.deepEqual(rangeOf([[null]]), [0, 1]);
});

test("colours lie between the two ends", () => {
  assert.deepEqual(between(0.5, [0, 0, 0], [10, 20, 40]), [5, 10, 20]);
  assert.deepEqual(between(-1, [1, 2, 3], [9, 9, 9]), [1, 2, 3]);
  assert.deepEqual(between(7, [1, 2, 3], [9, 9, 9]), [9, 9, 9]);
});

test("cells fill the width without gaps, and each has a pixel", () => {
  const cells = [0, 1, 2].map((i) => cell(i, 3, 100));
  assert.deepEqual(cells, [[0, 33], [33, 33], [66, 34]]);
  assert.deepEqual(cell(999, 1000, 300), [299, 1]);
});

test("pixels know their cells, and gaps are kept where there is room", () => {
  assert.deepEqual([...cellsOf(2, 4, 0)], [0, 0, 1, 1]);
  assert.deepEqual([...cellsOf(2, 16, 1)], [0, 0, 0, 0, 0, 0, 0, -1, 1, 1, 1, 1, 1, 1, 1, -1]);
  assert.deepEqual([...cellsOf(2, 4, 1)], [0, 0, 1, 1]);
});

test("rows that are no whole pixels high stay where their share of all is", () => {
  const rows = cells(100, 450, 1); // of 3 pixels of the page, on a screen that has 1.5 for each
  assert.deepEqual(rows.slice(0, 3), [[0, 4], [4, 5], [9, 4]]);
  assert.deepEqual(rows[99], [445, 5]);
  assert.deepEqual(cells(2, 45, 1), [[0, 21], [22, 22]]); // with a gap
});

test("values beyond the range have the shades of its ends", () => {
  assert.deepEqual([null, -5, 0, 5, 10, 99].map((value) => shade(value, [0, 10])), [-1, 0, 0, 128, SHADES - 1, SHADES - 1]);
});

test("the map is told in a sentence", () => {
  assert.equal(told(heat, rowsOf(heat)), "3 agents, 3 rounds. Outliers: b in 2 of 3 rounds.");
  const calm = { ...heat, outliers: [] };
  assert.equal(told(calm, rowsOf(calm)), "3 agents, 3 rounds. No outlier.");
});

test("a thousand agents and a thousand rounds are no trouble", () => {
  const values = Array.from({ length: 1000 }, (_, i) => Array.from({ length: 1000 }, (_, j) => i + j / 1000));
  const large = { ...heat, agents: values.map((_, i) => `agent ${i}`), rounds: values.map((_, i) => i), values, outliers: [] };
  assert.equal(ordered(rowsOf(large), "odd", "distance")[0].name, "agent 999");
  const [low, high] = rangeOf(large.values);
  assert.ok(low < 11 && high > 989);
});
