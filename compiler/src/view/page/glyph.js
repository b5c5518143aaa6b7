// Linears as what they are: a dense one as wide as its ends, a CoLA pair as a narrow waist, all to one scale.

// {inputs, rank, outputs, …} of a box that stands for a linear; rank is null for a dense one.
function waistOf(stage, box) {
  if (box.kind === "pair" && box.pair) return box.pair;
  if (box.kind !== "linear") return null;
  const linear = stage.linears.get(box.path);
  return linear ? { inputs: linear.inputs, outputs: linear.outputs, rank: null } : null;
}

// Pixels for one feature, so that the widest linear of the layers is `width` wide. A head over the vocabulary is many
// times wider than all else and does not count: it is drawn torn.
function glyphScale(stage, width) {
  const all = stage.boxes.map((box) => ({ box, waist: waistOf(stage, box) })).filter(({ waist }) => waist);
  const inLayers = all.filter(({ box }) =>
    [...stage.around(box)].some((outer) => outer.kind === "fold" || outer.kind === "turn"),
  );
  const widths = (inLayers.length ? inLayers : all).flatMap(({ waist }) => [waist.inputs, waist.outputs]);
  return width / Math.max(1, ...widths);
}

// Draws a linear into `width` by `height`: the shape of what it is, and behind it the outline of the dense one it was.
function glyph(waist, scale, width, height) {
  const centre = width / 2;
  const half = (features) => Math.max(1, Math.min(features * scale, width)) / 2;
  const torn = (features) => features * scale > width + 0.5;
  const [a, b] = [half(waist.inputs), half(waist.outputs)];
  const outline = (x0, y0, x1, y1) => `M${centre - x0} ${y0}H${centre + x0}L${centre + x1} ${y1}H${centre - x1}Z`;
  const parts = [];
  if (waist.rank) {
    const r = half(waist.rank),
      band = 5,
      upper = (height - band) / 2,
      lower = (height + band) / 2;
    parts.push(
      makeSvg("path", { class: "ghost", d: outline(a, 0.5, b, height - 0.5) }),
      makeSvg("path", { class: "down", d: outline(a, 0, r, upper) }),
      makeSvg("rect", { class: "act", x: centre - r, y: upper, width: 2 * r, height: band }),
      makeSvg("path", { class: "up", d: outline(r, lower, b, height) }),
    );
  } else parts.push(makeSvg("path", { class: "dense", d: outline(a, 0, b, height) }));
  for (const [features, y] of [
    [waist.inputs, 3],
    [waist.outputs, height - 3],
  ])
    if (torn(features))
      for (const side of [5, width - 5]) parts.push(makeSvg("path", { class: "tear", d: `M${side - 2} ${y - 6}l4 4l-4 4l4 4` }));
  return makeSvg(
    "svg",
    { class: "glyph", viewBox: `0 -1 ${width} ${height + 2}`, width, height: height + 2, "aria-hidden": "true" },
    parts,
  );
}

// Which half of a pair a product is: [from, to] in features; null for all else.
function waistPart(node) {
  const pair = node.kind === "product" && node.home.kind === "pair" ? node.home.pair : null;
  if (!pair) return null;
  return node.label === "down" ? [pair.inputs, pair.rank] : node.label === "up" ? [pair.rank, pair.outputs] : null;
}

// A half of a pair, small, for the card of its product.
function halfGlyph(node, width, height) {
  const part = waistPart(node),
    { pair } = node.home;
  if (!part) return null;
  const [a, b] = part.map((features) => Math.max(1, (features * width) / Math.max(pair.inputs, pair.outputs) / 2)),
    middle = width / 2;
  const upwards = node.phase === "backward";
  const [top, bottom] = upwards ? [b, a] : [a, b];
  return makeSvg(
    "svg",
    { class: "glyph half", viewBox: `0 0 ${width} ${height}`, width, height, "aria-hidden": "true" },
    makeSvg("path", { class: "down", d: `M${middle - top} 0H${middle + top}L${middle + bottom} ${height}H${middle - bottom}Z` }),
  );
}
