// The first tab: which stage is shown, what of it is open, chosen and coloured. Joins model, scene and canvas.

class Graph {
  // `on`: {selected(thing), stage(name), toggled(box, open)}, each called after a user's action.
  constructor(picture, on, options = {}) {
    this.picture = picture;
    this.on = on;
    this.stages = picture.stages.map((raw) => new Stage(picture, raw));
    // The rewrite is what people come to see.
    this.stage = this.stages.find((stage) => stage.name === "cola") ?? this.stages[0];
    this.hidden = new Set();
    this.colour = "kind";
    this.reshapes = false;
    this.selected = null;
    this.note = "";
    this.differs = options.differs ?? null;
    this.program = this.firstProgram();
    this.open = new Set();
    this.openAtFirst(options.shallow ?? window.innerWidth < 700);
    this.canvas = new Canvas({ toggle: (box, phase) => this.toggle(box, phase), select: (thing) => this.select(thing) });
    this.root = make("div", { class: "graph colour-kind" }, this.canvas.pane);
    this.observer = new ResizeObserver(() => {
      if (this.canvas.scene && this.canvas.pane.clientWidth) this.canvas.size();
    });
    this.observer.observe(this.canvas.pane);
  }

  firstProgram() {
    const { programs } = this.stage;
    return programs.length > 1 ? (programs.find((name) => name.includes("backward")) ?? programs[0]) : null;
  }

  // The model, and the repeat that holds the most of it, as far as attention and MLP.
  openAtFirst(shallow) {
    this.open.add(this.stage.model.key);
    const repeats = this.stage.model.children.filter((box) => box.kind === "fold" || box.kind === "turn");
    const most = repeats.reduce((best, box) => (!best || box.times > best.times ? box : best), null);
    if (!most) return;
    this.open.add(most.key);
    if (!shallow) for (const box of most.children) if (box.kind === "module" && box.children.length > 1) this.open.add(box.key);
    openGroups(this.stage, this.open);
  }

  draw() {
    const phases = phasesOf(this.stage, this.program).filter((phase) => !this.hidden.has(phase.name));
    const drawn = scene(this.stage, {
      open: this.open,
      phases: new Set(phases.map((phase) => phase.name)),
      program: this.program,
      reshapes: this.reshapes,
    });
    this.canvas.show(this.stage, drawn, {
      selected: this.selected,
      differs: this.differs && ((thing, open) => this.differs(this.stage, thing, open)),
    });
  }

  // Switches the stage and keeps what is open and chosen, as far as the new stage has it.
  setStage(name) {
    const before = this.stage,
      next = this.stages.find((stage) => stage.name === name);
    if (!next || next === before) return;
    const open = new Set([next.model.key]);
    for (const box of before.boxes) {
      if (!this.open.has(box.key)) continue;
      // Of several boxes in the place of one the one that speaks for most turns is opened, not all of them.
      const there = next.matching(box);
      if (there.length) open.add(there.reduce((best, other) => (other.times > best.times ? other : best)).key);
    }
    openGroups(next, open);
    this.stage = next;
    this.open = open;
    this.program = this.firstProgram();
    if (this.selected) {
      const { selected } = this;
      this.selected = selected.operands
        ? (next.nodes.find((node) => node.key === selected.key) ?? next.matching(selected.home)[0] ?? null)
        : (next.matching(selected)[0] ?? null);
    }
    this.canvas.glide();
    this.draw();
    this.settleZoom();
    this.on.stage(name);
  }

  // Columns beside each other are looked at from further away than one.
  settleZoom() {
    const columns = this.canvas.scene.columns.length;
    if (columns === this.columns || !this.canvas.pane.clientWidth) return;
    if (this.columns !== undefined) this.canvas.fitReadable(columns > 1 ? 0.6 : 0.72);
    this.columns = columns;
  }

  // Opens a closed box and closes an open one; either way it is what the inspector tells about.
  toggle(box, phase) {
    const now = !this.open.has(box.key);
    if (now) this.open.add(box.key);
    else this.open.delete(box.key);
    if (now) openGroups(this.stage, this.open);
    this.selected = box;
    this.note = "";
    const before = this.canvas.cardOf(box, phase);
    this.redrawAround(before);
    this.on.toggled(box, now);
    this.on.selected(box);
  }

  // Draws again with the card that was clicked under the pointer where it was.
  redrawAround(card) {
    const { pane } = this.canvas,
      z = this.canvas.zoom;
    const place = (of) => [this.canvas.left + (of.x + of.w / 2) * z, this.canvas.top + of.y * z];
    const [x0, y0] = card ? place(card) : [0, 0];
    this.draw();
    const again = card && this.canvas.scene.cards.find((other) => other.key === card.key);
    if (again) {
      const [x1, y1] = place(again);
      pane.scrollLeft += x1 - x0;
      pane.scrollTop += y1 - y0;
    }
    if (card) this.canvas.focus(card.key);
  }

  select(thing, note = "") {
    this.selected = thing;
    this.note = note;
    this.draw();
    this.on.selected(thing);
  }

  // Shows a box or node wherever it is: opens all around it, brings it into view.
  goTo(thing, note = "") {
    for (const box of this.stage.around(thing)) this.open.add(box.key);
    if (thing.phase) this.hidden.delete(thing.phase);
    this.select(thing, note);
    const card = this.canvas.cardOf(thing) ?? this.canvas.cardOf(thing, undefined);
    if (!card) return;
    this.canvas.reveal(card, true);
    this.canvas.focus(card.key);
  }

  openAll(all) {
    this.open = new Set(all ? this.stage.boxes.filter((box) => box.shown === box).map((box) => box.key) : [this.stage.model.key]);
  }

  setColour(colour) {
    this.colour = colour;
    this.root.className = `graph colour-${colour}`;
  }
}

// A group says no more than its members: it opens with what is around it.
function openGroups(stage, open) {
  for (const box of stage.boxes) if (box.kind === "group" && open.has(box.above.key)) open.add(box.key);
}

const KINDS = {
  product: "product",
  attention: "attention",
  norm: "norm",
  pointwise: "pointwise",
  embedding: "embedding",
  loss: "loss",
  memory: "memory",
  optimizer: "optimizer",
  input: "input",
  view: "reshape",
};

// The stages as steps.
function stageSteps(graph, choose) {
  return choice(
    "stages",
    "Stage of compilation",
    graph.stages.map(({ name, title }) => [name, name, title]),
    graph.stage.name,
    choose,
  );
}

// The figures that a stage is told by: [what it is called, how it is written, its key in the totals].
const FIGURES = [
  ["parameters", count, "parameters"],
  ["forward", flops, "forward"],
  ["backward", flops, "backward"],
  ["recompute", flops, "recompute"],
  ["kept", bytes, "kept"],
  ["moved", bytes, "bytes"],
];

// One of them, and by how much it `moved`, to more or to less.
function figure(name, value, { title, kind, moved }) {
  return make(
    "div",
    { class: "fact", title },
    make("dt", {}, name),
    make("dd", {}, value, moved && make("em", { class: kind }, moved)),
  );
}

// What to know about a stage that is not one of those that the plan came from.
function stageNote(stage, heading) {
  const { note, stages } = stage.picture;
  return note && (stage.name !== "plan" || stages.length === 1) ? make("p", { class: "caveat", role: "note" }, make("b", {}, heading), note) : null;
}

// What the stage is, and its figures with the change from the stage before.
function stageFacts(graph) {
  const { stages, stage } = graph;
  const at = stages.indexOf(stage),
    now = stage.model.total,
    before = at > 0 ? stages[at - 1].model.total : null;
  const fact = ([name, write, key]) => {
    if (!now[key]) return null;
    const moved = before && before[key] && before[key] !== now[key] ? change(before[key], now[key]) : "";
    const title = `${exact(now[key])}${before ? `; one stage earlier ${exact(before[key] ?? 0)}` : ""}`;
    return figure(name, write(now[key]), { title, kind: moved.startsWith("−") ? "less" : "more", moved });
  };
  return make(
    "div",
    { class: "facts" },
    make("p", { class: "stage-title" }, stage.title),
    make("dl", {}, [...FIGURES, ["operations", exact, "operations"]].map(fact)),
    stageNote(stage, "Note: "),
  );
}

// Everything that changes how graphs look, of one or of two beside each other; the first says how it is now.
function toolbar(graphs, redraw) {
  const [graph] = graphs;
  const all = (act) => {
    graphs.forEach(act);
    redraw();
  };
  // The first is changed last: the others are measured by it.
  const zoom = (act) => [...graphs].reverse().forEach(act);
  const phases = PHASES.filter((phase) => graphs.some((one) => phasesOf(one.stage, one.program).includes(phase)));
  const kinds = Object.keys(KINDS).filter((kind) =>
    graph.stage.nodes.some((node) => node.kind === kind && (kind !== "view" || graph.reshapes)),
  );
  const button = (label, text, act) =>
    make("button", { type: "button", class: "tool", "aria-label": label, title: label, onclick: act }, text);
  const press = (label, on, act, className = "") =>
    make("button", { type: "button", class: `toggle ${className}`, "aria-pressed": String(on), onclick: act }, label);
  return make(
    "div",
    { class: "toolbar" },
    graph.stage.programs.length > 1 &&
      choice(
        "program",
        "Program",
        graph.stage.programs.map((name) => [name, name.replaceAll("_", " ")]),
        graph.program,
        (name) =>
          all((one) => {
            one.program = name;
          }),
      ),
    phases.length > 1 &&
      make(
        "div",
        { class: "group", role: "group", "aria-label": "Phases" },
        phases.map((phase) =>
          press(
            phase.name,
            !graph.hidden.has(phase.name),
            () => {
              const hide = !graph.hidden.has(phase.name);
              all((one) => {
                if (hide) one.hidden.add(phase.name);
                else one.hidden.delete(phase.name);
              });
            },
            phase.name,
          ),
        ),
      ),
    make(
      "div",
      { class: "group labelled" },
      make("span", {}, "colour"),
      choice(
        "colour",
        "Colour by",
        [
          ["kind", "kind"],
          ["cost", "cost"],
        ],
        graph.colour,
        (colour) => all((one) => one.setColour(colour)),
      ),
    ),
    press("reshapes", graph.reshapes, () => {
      const shown = !graph.reshapes;
      all((one) => {
        one.reshapes = shown;
      });
    }),
    make(
      "div",
      { class: "group" },
      button("Open every box", "open all", () => all((one) => one.openAll(true))),
      button("Close every box", "close all", () => all((one) => one.openAll(false))),
    ),
    make(
      "div",
      { class: "group zoom" },
      button("Zoom out", "−", () => zoom((one) => one.canvas.setZoom(graph.canvas.zoom / 1.25))),
      button("Fit the width", "fit", () => zoom((one) => one.canvas.fit())),
      button("Zoom in", "+", () => zoom((one) => one.canvas.setZoom(graph.canvas.zoom * 1.25))),
    ),
    make(
      "div",
      { class: "legend", "aria-hidden": "true" },
      graph.colour === "kind"
        ? [
            kinds.map((kind) => make("span", { class: `kind-${kind}` }, KINDS[kind])),
            graph.stage.values.some((value) => value.kept) &&
              make("span", { class: "key" }, make("i", { class: "kept" }), "kept for backward"),
            phases.some((phase) => phase.name === "recompute") &&
              make("span", { class: "key" }, make("i", { class: "again" }, "↻"), "made again"),
          ]
        : make("span", { class: "ramp" }, "fewer FLOPs", make("i"), "more"),
    ),
  );
}
