import assert from "node:assert/strict";
import { test } from "node:test";

import { concerns, paced } from "../../../../db/web/static/js/pace.js";

/** A clock whose time the test lets pass. */
function clock() {
  const due = [];
  const found = {
    at: 0,
    now: () => found.at,
    later: (act, ms) => due.push({ act, at: found.at + ms }),
    async pass(ms) {
      found.at += ms;
      for (const entry of due.splice(0)) {
        if (entry.at <= found.at) await entry.act();
        else due.push(entry);
      }
    },
  };
  return found;
}

test("a page hears of its own runs only, the start page of all", () => {
  assert.ok(concerns("*", "r1"));
  assert.ok(concerns("r1 r2", "r2"));
  assert.ok(!concerns("r10", "r1"));
});

test("the first change is fetched at once, those after it together", async () => {
  const time = clock();
  let fetched = 0;
  const changed = paced(async () => void fetched++, 1000, time);
  changed();
  await time.pass(0);
  assert.equal(fetched, 1);
  for (let i = 0; i < 50; i++) changed();
  await time.pass(500);
  assert.equal(fetched, 1);
  await time.pass(500);
  assert.equal(fetched, 2);
});

test("what changes during a fetch is fetched after it", async () => {
  const time = clock();
  let fetched = 0;
  let end = () => {};
  const changed = paced(() => new Promise((resolve) => { fetched++; end = resolve; }), 1000, time);
  changed();
  const first = time.pass(0);
  changed();
  end();
  await first;
  const second = time.pass(1000);
  assert.equal(fetched, 2);
  end();
  await second;
});

test("a fetch that fails does not end it", async () => {
  const time = clock();
  let tried = 0;
  const changed = paced(async () => { tried++; throw new Error("gone"); }, 1000, time);
  changed();
  await assert.rejects(time.pass(0));
  changed();
  await assert.rejects(time.pass(1000));
  assert.equal(tried, 2);
});

test("a fetch of which nothing came is tried again, once", async () => {
  const time = clock();
  let tried = 0;
  const changed = paced(async () => ++tried > 1, 1000, time, 5000);
  changed();
  await time.pass(0);
  await time.pass(4999);
  assert.equal(tried, 1);
  await time.pass(1);
  await time.pass(0);
  assert.equal(tried, 2);
  await time.pass(10000);
  assert.equal(tried, 2);
});
