// What is to be seen of a stage: for every phase a column of nested boxes, each with its place, and the edges between
// them. Knows what is open; knows nothing of elements.

const HEAD = 34,
  SIDE = 16;
const FONT = 'Inter, system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif';
const MONO = 'ui-monospace, "JetBrains Mono", SFMono-Regular, Menlo, Consolas, monospace';
const FONTS = { label: `600 13px ${FONT}`, small: `11px ${FONT}`, shape: `10.5px ${MONO}` };
const COLUMN_GAP = 56,
  COLUMN_HEAD = 40;

// `view`: {open: Set of keys of boxes, phases: Set of names, program, reshapes: whether reshapes are drawn}.
function scene(stage, view) {
  const columns = PHASES.filter((phase) => view.phases.has(phase.name))
    .map((phase) => new Column(stage, phase, view))
    .filter((column) => column.placed);
  // Columns are hung up at the repeat that says most, so that its phases are beside each other.
  const lowest = Math.max(0, ...columns.map((column) => column.anchor()));
  let x = 0;
  const result = { columns: [], cards: [], edges: [], h: 0 };
  for (const column of columns) {
    const y = (columns.length > 1 ? COLUMN_HEAD : 0) + lowest - column.anchor();
    column.flatten(column.placed, x, y, result);
    result.columns.push({ phase: column.phase, x, y, w: column.placed.w, h: column.placed.h });
    result.h = Math.max(result.h, y + column.placed.h);
    x += column.placed.w + COLUMN_GAP;
  }
  result.w = Math.max(0, x - COLUMN_GAP);
  return result;
}

// The phases of a stage and program that have anything to draw.
function phasesOf(stage, program) {
  return PHASES.filter((phase) =>
    stage.nodes.some(
      (node) =>
        node.phase === phase.name &&
        !QUIET.has(node.kind) &&
        !node.outside &&
        (!program || !node.program || node.program === program),
    ),
  );
}

class Column {
  constructor(stage, phase, view) {
    this.stage = stage;
    this.phase = phase;
    this.view = view;
    this.counts = new Map();
    this.nodes = stage.nodes.filter((node) => this.shows(node));
    this.shown = new Set(this.nodes);
    // What comes from outside the program is shown where it is read.
    for (const node of this.nodes)
      if (node.outside && !node.results.some((index) => stage.values[index].readers.some((reader) => this.shown.has(reader))))
        this.shown.delete(node);
    this.nodes = this.nodes.filter((node) => this.shown.has(node));
    for (const node of this.nodes) for (const box of stage.around(node)) this.counts.set(box, (this.counts.get(box) ?? 0) + 1);
    this.edges = new Map();
    for (const node of this.nodes) this.link(node);
    this.placed = this.nodes.length ? this.boxCard(stage.model) : null;
  }

  shows(node) {
    return (
      node.phase === this.phase.name &&
      !QUIET.has(node.kind) &&
      (node.kind !== "view" || this.view.reshapes) &&
      (!this.view.program || !node.program || node.program === this.view.program)
    );
  }

  // Follows a value back over what is not drawn; null for what another phase or no operation made.
  source(index, depth = 0) {
    const value = index === null || index === undefined ? null : this.stage.values[index];
    const node = value && this.stage.nodes[value.node];
    if (!node || depth > 64) return null;
    if (this.shown.has(node)) return value;
    if (node.kind !== "view" || node.phase !== this.phase.name) return null;
    return this.source(Stage.source(node.operands[0] ?? null), depth + 1);
  }

  // Notes the edge of every operand at the one box where both ends meet, and as a port of every box that it enters or
  // leaves on its way.
  link(node) {
    for (const use of node.operands) {
      const value = this.source(Stage.source(use));
      if (!value) continue;
      const maker = this.stage.nodes[value.node];
      if (maker === node) continue;
      const outer = [...this.stage.around(maker)],
        inner = [...this.stage.around(node)];
      const meeting = outer.find((box) => inner.includes(box));
      for (let at = maker, i = 0; outer[i] !== meeting; at = outer[i], i++) this.note(outer[i], at, "out", value.index);
      for (let at = node, i = 0; inner[i] !== meeting; at = inner[i], i++) this.note(inner[i], "in", at, value.index);
      const from = outer.indexOf(meeting),
        to = inner.indexOf(meeting);
      this.note(meeting, from ? outer[from - 1] : maker, to ? inner[to - 1] : node, value.index);
    }
  }

  note(box, from, to, value) {
    if (from === to) return;
    if (!this.edges.has(box)) this.edges.set(box, []);
    const list = this.edges.get(box);
    if (!list.some((edge) => edge.from === from && edge.to === to && edge.value === value)) list.push({ from, to, value });
  }

  // The items of a box in the order of the program.
  items(box) {
    const items = [];
    for (const child of box.children) {
      if (!this.counts.has(child)) continue;
      const first = this.nodes.find((node) => [...this.stage.around(node)].includes(child));
      const only = child.kind === "module" && this.counts.get(child) === 1 && first.home === child ? first : null;
      items.push({ thing: child, first: first.index, card: only ? this.nodeCard(only, child) : this.boxCard(child) });
    }
    for (const node of box.nodes)
      if (this.shown.has(node)) items.push({ thing: node, first: node.index, card: this.nodeCard(node, null) });
    return items.sort((a, b) => a.first - b.first);
  }

  boxCard(box) {
    if (!this.view.open.has(box.key)) {
      const size = closedSize(this.stage, box, this.phase.name);
      return { kind: "box", box, open: false, ...size, inX: () => null, outX: () => null };
    }
    const items = this.items(box);
    const numbers = new Map(items.map((item, i) => [item.thing, i]));
    const edges = (this.edges.get(box) ?? [])
      .map(({ from, to, value }) => ({
        from: from === "in" ? "in" : numbers.get(from),
        to: to === "out" ? "out" : numbers.get(to),
        value,
      }))
      .filter((edge) => edge.from !== undefined && edge.to !== undefined);
    const inner = layered(
      items.map((item) => item.card),
      edges,
    );
    const title =
      measureText(boxTitleShort(box), FONTS.label) +
      measureText(boxNote(this.stage, box, this.phase.name), FONTS.small) * 1.04 +
      70 +
      (box.total.kept && this.phase.name === "forward" ? 16 : 0);
    const w = Math.max(inner.w + 2 * SIDE, title);
    const shift = (w - inner.w) / 2;
    const h = inner.h + HEAD;
    const port = (map) => (value) => (map.has(value) ? map.get(value) + shift : null);
    return { kind: "box", box, open: true, w, h, inner, items, shift, inX: port(inner.inX), outX: port(inner.outX) };
  }

  // How far below the top of the column the open repeat of most turns begins.
  anchor() {
    const { inner, items } = this.placed;
    const at = (items ?? []).reduce(
      (best, item, i) => (item.card.open && (best < 0 || item.thing.times > items[best].thing.times) ? i : best),
      -1,
    );
    if (at < 0) return 0;
    return HEAD + (this.phase.up ? inner.h - inner.places[at].y - items[at].card.h : inner.places[at].y);
  }

  nodeCard(node, alone) {
    const card = nodeSize(this.stage, node, alone);
    return { kind: "node", node, alone, open: false, ...card, inX: () => null, outX: () => null };
  }

  // Places of this column in those of the page. A column that runs upwards is the same picture turned over, headings
  // excepted.
  flatten(card, x, y, result, level = 1) {
    const key = `${this.phase.name}/${(card.alone ?? card.box ?? card.node).key}`;
    result.cards.push({ ...card, key, x, y, level, phase: this.phase.name, above: card.above ?? null });
    if (!card.open) return;
    const { inner, items } = card,
      up = this.phase.up;
    const top = y + HEAD,
      turn = (py) => (up ? inner.h - py : py);
    items.forEach((item, i) => {
      const place = inner.places[i];
      this.flatten(
        { ...item.card, above: key },
        x + card.shift + place.x,
        top + (up ? inner.h - place.y - item.card.h : place.y),
        result,
        level + 1,
      );
    });
    for (const route of inner.routes) {
      const points = route.points.map(([px, py]) => [x + card.shift + px, top + turn(py)]);
      // At the head the flow comes in, or in a column that runs upwards goes out, through the title.
      if (!up && route.from === "in") points.unshift([points[0][0], y]);
      if (up && route.to === "out") points.push([points[points.length - 1][0], y]);
      result.edges.push({
        points,
        value: route.value,
        phase: this.phase.name,
        arrow: route.to !== "out",
        back: route.back ?? false,
        from: route.from === "in" ? null : items[route.from].thing,
        to: route.to === "out" ? null : items[route.to].thing,
      });
    }
  }
}

// How a box is headed: the name within its parent.
function boxTitleShort(box) {
  return box.label || boxTitle(box);
}

// The figures of a box in a column: what it holds in the forward pass, what it does in the others.
function boxNote(stage, box, phase) {
  const parts = [],
    work = box.total[phase] ?? 0;
  if (phase === "forward" && box.total.parameters) parts.push(count(box.total.parameters));
  if (work) parts.push(flops(work));
  if (stage.flops && work) parts.push(percent(work / stage.flops));
  if (!parts.length)
    parts.push(
      plural([...stage.inside(box)].filter((node) => node.phase === phase && !QUIET.has(node.kind)).length, "operation"),
    );
  return parts.join(" · ");
}

function shortShape(shape) {
  return (
    shape
      .replace(/^\[|\]$/g, "")
      .split(", ")
      .filter((axis) => axis !== "")
      .join(" × ") || "one number"
  );
}

// On a card: the axes that every shape begins with need no names.
function cardShape(shape) {
  const named = shortShape(shape).replace(/\b(batch|seq) (?=\d)/g, "");
  return named.length > 28 ? named.replace(/[a-z_]+ (?=\d)/g, "") : named;
}

function nodeFigures(node) {
  const parts = [];
  if (node.parameters) parts.push(count(node.parameters));
  if (node.flops) parts.push(flops(node.flops));
  if (node.bytes) parts.push(bytes(node.bytes));
  return parts.join(" · ");
}

function nodeSize(stage, node, alone) {
  const title = alone?.label ?? nodeTitle(node);
  const shape = node.results.length ? cardShape(stage.values[node.results[0]].shape) : "";
  const figures = nodeFigures(node);
  const width =
    Math.max(
      measureText(title, FONTS.label) + 26,
      measureText(shape, FONTS.shape),
      measureText(figures, FONTS.small) * 1.04 + 4,
    ) +
    32 +
    (waistPart(node) ? 16 : 0);
  return {
    title,
    shape,
    figures,
    w: Math.min(270, Math.max(120, Math.ceil(width))),
    h: 26 + (shape ? 15 : 0) + (figures ? 15 : 0) + 4,
  };
}

function closedSize(stage, box, phase) {
  if (waistOf(stage, box) && phase === "forward") return { w: 222, h: 122, glyph: true };
  const width = Math.max(
    measureText(boxTitleShort(box), FONTS.label) + 40,
    measureText(boxNote(stage, box, phase), FONTS.small) + 38,
    140,
  );
  return { w: Math.min(280, Math.ceil(width)), h: 48 };
}
