// Checks the arithmetic of the page that `colac plot` writes: node tests/plot/check.js runtime/src/plot/page.js
"use strict";
const assert = require("node:assert");
const path = require("node:path");
const page = require(path.resolve(process.argv[2]));

// Smoothing and ticks are those of the SVG, whose tests (curve.rs, scale.rs) expect the same numbers.
const near = (found, expected) => assert.ok(Math.abs(found - expected) < 1e-9, `${found} is not ${expected}`);
const smooth = page.smoothed([4, 2, 2], 3);
[5.5 / 1.75, 5 / 2, 4 / 1.75].forEach((expected, i) => near(smooth[i], expected));
assert.deepStrictEqual(page.smoothed([4, 2], 1), [4, 2]);
assert.deepStrictEqual(page.smoothed([1, null, 1], 9), [1, null, 1]);

const written = (low, high, isLog, count) => {
  const scale = page.makeScale(low, high, isLog, 0, 1), ticks = scale.ticks(count);
  return ticks.map(page.tickWriter(ticks, isLog)).join(" ");
};
assert.strictEqual(written(3.9, 8.4, false, 5), "4 5 6 7 8");
assert.strictEqual(written(3.93, 4.41, false, 5), "4.0 4.1 4.2 4.3 4.4");
assert.strictEqual(written(0, 60000, false, 6), "0 10k 20k 30k 40k 50k 60k");
assert.strictEqual(written(0, 1300000, false, 6), "0 0.5M 1.0M");
assert.strictEqual(written(0, 6e-4, false, 3), "0 2×10⁻⁴ 4×10⁻⁴ 6×10⁻⁴");
assert.strictEqual(written(1, 3000, true, 6), "1 10 100 1000");
assert.strictEqual(written(0.3, 40, true, 6), "0.5 1 2 5 10 20");

const log = page.makeScale(1, 100, true, 0, 50);
near(log.place(10), 25);
near(log.value(25), 10);
assert.strictEqual(log.place(0), null);
assert.strictEqual(log.place(null), null);

// One update of fifty thousand that jumps is still there.
const points = Array.from({ length: 50000 }, (_, i) => [800 * i / 50000, i === 31415 ? 99 : i % 7]);
const [piece] = page.thinned(points);
assert.ok(piece.length <= 3200 && piece.filter(([, y]) => y === 99).length === 1);
assert.deepStrictEqual(page.thinned([[0, 1], null, [9, 3]]), [[[0, 1]], [[9, 3]]]);

const places = page.spread([50, 50, 50, -500], 14, 0, 100);
const sorted = [...places].sort((a, b) => a - b);
for (let i = 1; i < sorted.length; i++) assert.ok(sorted[i] - sorted[i - 1] > 13.999, String(places));
assert.ok(sorted[0] > -0.001 && sorted[3] < 100.001);

const run = { steps: [1, 2], tokens: [10, 20], seconds: [0.5, 1], flops_per_step: 7, evaluation_steps: [2], evaluation_tokens: [20], evaluation_seconds: [1] };
assert.deepStrictEqual(page.columns(run, "flops"), [[7, 14], [14]]);
assert.deepStrictEqual(page.columns(run, "seconds"), [[0.5, 1], [1]]);
assert.strictEqual(page.columns({ ...run, flops_per_step: null }, "flops"), null);
assert.deepStrictEqual([0, 1.4, 1.6, 99].map((value) => page.nearest([1, 2, 3], value)), [0, 0, 1, 2]);
assert.deepStrictEqual(page.axisUnit("flops", 8e14), [1e12, "TFLOP"]);
assert.deepStrictEqual(page.axisUnit("seconds", 7199), [60, "min"]);
for (const span of [1, 2, 30, 600]) {
  const again = page.spanOf(page.placeOf(span, 60000), 60000);
  assert.ok(Math.abs(again - span) <= Math.max(1, span * 0.06), `${span} ${again}`);
}
