// Reads a stage of the picture: who stands in what, who reads whom, and which paths a box of a folded repeat speaks for.
// Knows nothing of drawing.

const PHASES = [
  { name: "forward", title: "Forward", up: false },
  { name: "recompute", title: "Recompute", up: false },
  { name: "backward", title: "Backward", up: true },
  { name: "update", title: "Update", up: false },
];
// Kinds that are not drawn as boxes of their own: what they hold is said by those who read them.
const QUIET = new Set(["parameter", "constant"]);

class Stage {
  constructor(picture, raw) {
    this.picture = picture;
    this.name = raw.name;
    this.title = raw.title;
    this.values = raw.values.map((value, index) => ({ ...value, index, readers: [] }));
    this.boxes = raw.boxes.map((box, index) => ({ ...box, index, children: [], nodes: [] }));
    this.nodes = raw.nodes.map((node, index) => ({ ...node, index, key: "" }));
    this.linears = new Map(picture.linears.map((linear) => [linear.path, linear]));
    this.programs = [...new Set(this.nodes.map((node) => node.program).filter(Boolean))];
    // Of a plan's programs those that a training step runs: totals are theirs.
    this.training = new Set(
      this.nodes.filter((node) => node.phase === "backward" || node.phase === "update").map((node) => node.program),
    );
    this.link();
  }

  link() {
    for (const box of this.boxes) {
      const parent = box.parent === null || box.parent === undefined ? null : this.boxes[box.parent];
      // The turn that stands for all of a fold is not shown beside the fold: what is in it is in the fold.
      // Nor is what a whole program owns: it is the model's.
      box.shown =
        (box.kind === "turn" && parent?.kind === "fold") || (parent && this.programs.includes(box.path)) ? parent.shown : box;
      box.above = box.shown === box ? (parent?.shown ?? null) : box.shown.above;
      box.span = span(box, parent);
      box.depth = box.above ? box.above.depth + 1 : 0;
      if (box.shown === box && box.above) box.above.children.push(box);
    }
    const seen = new Map();
    for (const node of this.nodes) {
      node.home = this.boxes[node.box].shown;
      node.times = this.boxes[node.box].times;
      node.home.nodes.push(node);
      const name = `${node.phase}:${node.path}:${node.label}`;
      const number = seen.get(name) ?? 0;
      seen.set(name, number + 1);
      node.key = `node:${name}:${number}`;
      for (const use of node.operands) {
        const value = this.values[typeof use === "number" ? use : use.value];
        if (value && !value.readers.includes(node)) value.readers.push(node);
      }
    }
    this.model = this.boxes[0];
    this.model.label = this.picture.name;
    // What comes from outside belongs to the pass that reads it.
    for (const node of this.nodes)
      if (node.kind === "input" || (node.kind === "memory" && !node.operands.length)) {
        node.outside = true;
        // Which program it is an input of is said beside the graph.
        const owner = this.programs.find((program) => node.label.startsWith(`${program}.`));
        if (owner) node.label = node.label.slice(owner.length + 1);
        const readers = node.results.flatMap((index) => this.values[index].readers);
        if (readers.length && !readers.some((reader) => reader.phase === node.phase)) node.phase = readers[0].phase;
      }
    // A group of linears that are one product is named by its members.
    for (const box of this.boxes) {
      box.key = `box:${box.path}`;
      if (box.kind === "group") box.label = box.label.replace(/^\{|\}$/g, "").replaceAll(",", ", ");
    }
    this.flops = total(this.model);
  }

  // Whether a node counts in the totals.
  counts(node) {
    return !node.program || this.programs.length < 2 || this.training.has(node.program);
  }

  // Boxes around a node or box, the nearest first.
  *around(thing) {
    for (let box = thing.home ?? thing.above; box; box = box.above) yield box;
  }

  *inside(box) {
    yield* box.nodes;
    for (const child of box.children) yield* this.inside(child);
  }

  // The value that an operand reads as seen from outside the repeat that it is in: where it comes from the turn before, what
  // the first turn reads instead.
  static source(use) {
    if (use === null || use === undefined || typeof use === "number") return use ?? null;
    return "turn" in use ? Stage.source(use.outside) : use.value;
  }

  // Boxes of this stage that stand where a box of another stage stood: paths meet when every part does.
  matching(other) {
    return this.boxes.filter((box) => box.shown === box && meets(box.span, other.span));
  }
}

// FLOPs of everything in a box.
const total = (box) => box.total.forward + box.total.backward + box.total.recompute;

// A path by its parts; numbers of turns are [first, last].
function span(box, parent) {
  const parts = box.path === "" ? [] : box.path.split(".");
  return parts.map((part, i) => {
    const outer = parent?.span[i];
    if (Array.isArray(outer)) return outer;
    if (i === parts.length - 1 && Number.isInteger(box.first)) return [box.first, box.last ?? box.first];
    return turns(part) ?? part;
  });
}

// "7" is [7, 7], "0-6" is [0, 6]; null for a name.
function turns(part) {
  const found = /^(\d+)(?:-(\d+))?$/.exec(part);
  return found && [Number(found[1]), Number(found[2] ?? found[1])];
}

function partMeets(a, b) {
  return Array.isArray(a) && Array.isArray(b) ? a[0] <= b[1] && b[0] <= a[1] : a === b;
}

function meets(a, b) {
  return a.length === b.length && a.every((part, i) => partMeets(part, b[i]));
}

// A path as people read it: "layers.0–6.self_attn".
function spanText(parts) {
  return parts
    .map((part) => (!Array.isArray(part) ? part : part[0] === part[1] ? String(part[0]) : `${part[0]}–${part[1]}`))
    .join(".");
}

function boxTitle(box) {
  return box.path === "" ? box.label || "model" : spanText(box.span);
}

// How a node is called in a list: its path, and what it does where the path does not say it.
function nodeName(node, path = nodePath(node)) {
  const title = nodeTitle(node);
  return path === "" ? title : path === title || path.endsWith(`.${title}`) ? path : `${path} · ${title}`;
}

// A joined program is named by what it computes, where that is short.
function nodeTitle(node) {
  const program = (node.detail ?? "").replace(/^\{\s*|\s*\}$/g, "");
  return node.kind === "pointwise" && node.label === node.op && program && program.length <= 26 && !program.includes("\n")
    ? program
    : node.label;
}

// The path of a node with the turns of all folds around it.
function nodePath(node) {
  const parts = node.path.split(".");
  return spanText(
    parts.map((part, i) => (Array.isArray(node.home.span[i]) && /^\d+(-\d+)?$/.test(part) ? node.home.span[i] : part)),
  );
}
