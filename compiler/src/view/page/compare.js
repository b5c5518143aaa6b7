// Two pictures beside each other: opened, scrolled and chosen together, what differs marked.

class Comparison {
  constructor({ a, b, differences }) {
    this.pictures = [a, b];
    this.differences = differences ?? [];
    for (const difference of this.differences)
      difference.span = difference.path ? difference.path.split(".").map((part) => turns(part) ?? part) : [];
    // A box that is closed speaks for what is in it.
    const differs = (stage, thing, open) =>
      !thing.operands &&
      thing.path !== "" &&
      this.differences.some(({ span }) => span.length && (open ? meets(span, thing.span) : within(span, thing.span)));
    this.graphs = this.pictures.map(
      (picture, i) =>
        new Graph(
          picture,
          {
            selected: (thing) => this.choose(i, thing),
            stage: () => {},
            toggled: (box, open) => this.toggled(i, box, open),
          },
          { differs, shallow: true },
        ),
    );
    this.side = make("aside", { class: "inspector", "aria-label": "About the chosen box", tabindex: "-1" });
    this.steps = make("div", { class: "steps" });
    this.tools = make("div", { class: "tools" });
    this.panes = this.graphs.map((graph, i) =>
      make(
        "section",
        { class: "pane", "aria-label": this.names()[i] },
        make("div", { class: "pane-head" }, make("b", {}, this.names()[i]), chips(this.pictures[i])),
        graph.root,
      ),
    );
    this.link();
    const memories = this.pictures.map((picture) => new Memory(picture));
    this.totals = make("div", { class: "about" });
    this.both = make("div", { class: "costs page" });
    this.list = make("div", { class: "linears page" });
    this.tabs = tabs([
      [
        "graph",
        "Graphs",
        make(
          "div",
          { class: "graph-view" },
          this.steps,
          this.totals,
          this.tools,
          make("div", { class: "split pair-of-graphs" }, this.panes, this.side),
        ),
        () => this.draw(),
      ],
      ["differences", "Differences", this.list, () => this.drawDifferences()],
      [
        "memory",
        "Memory",
        make(
          "div",
          { class: "both-memories" },
          memories.map((memory, i) => make("section", {}, make("h2", {}, this.names()[i]), memory.root)),
        ),
        () => memories.forEach((memory) => memory.draw()),
      ],
      ["costs", "Costs", this.both, () => this.drawCosts()],
    ]);
    this.root = make(
      "div",
      { class: "app compare" },
      make(
        "header",
        { class: "top" },
        make("div", { class: "name" }, make("h1", {}, ...this.heading())),
        this.tabs.list,
        searchField(
          () => this.graphs[1].stage,
          (thing, note) => {
            this.tabs.open("graph");
            this.graphs[1].goTo(thing, note);
          },
        ),
        themeButton(),
      ),
      make("main", {}, this.tabs.bodies),
    );
  }

  // Two of one name are told apart by their form or place.
  names() {
    const [a, b] = this.pictures;
    if (a.name !== b.name) return [a.name, b.name];
    return a.form !== b.form
      ? [`${a.name}, ${formName(a)}`, `${b.name}, ${formName(b)}`]
      : [`${a.name}, first`, `${b.name}, second`];
  }

  // The names where there is little room: what tells the two apart.
  shortNames() {
    const names = this.names();
    return this.pictures[0].name === this.pictures[1].name
      ? names.map((name, i) => name.slice(this.pictures[i].name.length + 2))
      : names;
  }

  heading() {
    const [a, b] = this.names();
    return [make("span", {}, a), make("i", {}, " → "), make("span", {}, b)];
  }

  begin() {
    for (const graph of this.graphs) graph.selected = graph.stage.model;
    this.tabs.open("graph");
    for (const graph of this.graphs) {
      graph.settleZoom();
      graph.canvas.fitReadable();
    }
    this.inspectBoth();
  }

  stageNames() {
    return this.graphs[0].stages
      .map((stage) => stage.name)
      .filter((name) => this.graphs[1].stages.some((stage) => stage.name === name));
  }

  draw() {
    const names = this.stageNames();
    if (!this.steps.firstChild)
      this.steps.append(
        choice(
          "stages",
          "Stage of compilation",
          names.map((name) => [name, name]),
          this.graphs[0].stage.name,
          (name) => {
            for (const graph of this.graphs) graph.setStage(name);
            this.draw();
          },
        ),
      );
    for (const graph of this.graphs) graph.draw();
    const [a, b] = this.graphs.map((graph) => graph.stage.model.total);
    const fact = ([name, write, key]) => {
      const [x, y] = [a[key], b[key]];
      if (!x && !y) return null;
      const kind = y < x ? "less" : y > x ? "more" : "same";
      return figure(name, `${x ? write(x) : "–"} → ${y ? write(y) : "–"}`, { kind, moved: change(x, y) });
    };
    const notes = this.graphs.map((graph, i) => stageNote(graph.stage, `Note on ${this.names()[i]}: `));
    this.totals.replaceChildren(make("div", { class: "facts" }, make("dl", {}, FIGURES.map(fact)), notes.filter(Boolean)));
    const held = [...this.tools.querySelectorAll("button")].indexOf(document.activeElement);
    this.tools.replaceChildren(toolbar(this.graphs, () => this.draw()));
    if (held >= 0) this.tools.querySelectorAll("button")[held]?.focus();
    this.inspectBoth();
  }

  // The same box in the other picture follows.
  toggled(i, box, open) {
    const other = this.graphs[1 - i];
    for (const there of other.stage.matching(box))
      if (open) other.open.add(there.key);
      else other.open.delete(there.key);
    other.draw();
  }

  choose(i, thing) {
    const other = this.graphs[1 - i];
    other.selected = thing.operands
      ? (other.stage.nodes.find((node) => node.key === thing.key) ?? other.stage.matching(thing.home)[0] ?? null)
      : (other.stage.matching(thing)[0] ?? null);
    other.draw();
    this.inspectBoth();
    this.side.classList.add("raised");
  }

  inspectBoth() {
    const [a, b] = this.graphs;
    const box = b.selected ?? a.selected;
    const span = box && (box.operands ? box.home : box).span;
    const own = box ? this.differences.filter((difference) => meets(difference.span, span)) : [];
    const inside = box
      ? this.differences.filter((difference) => difference.span.length > span.length && within(difference.span, span))
      : [];
    this.side.replaceChildren(
      ...[
        own.length
          ? make("section", { class: "own-differences" }, make("h3", {}, "Differs in"), this.differenceTable(own, false))
          : inside.length
            ? null
            : make("p", { class: "hint" }, "The same in both."),
        inside.length
          ? make(
              "section",
              { class: "own-differences" },
              make("h3", {}, "Differs inside"),
              make(
                "ul",
                { class: "leads" },
                sameDifferences(inside)
                  .slice(0, 12)
                  .map((difference) =>
                    make(
                      "li",
                      {},
                      make(
                        "button",
                        { type: "button", class: "lead-to", onclick: () => this.lead(difference.first) },
                        difference.path,
                      ),
                      make("span", { class: "figures" }, difference.what),
                    ),
                  ),
              ),
            )
          : null,
        ...this.graphs.map((graph, i) =>
          make(
            "div",
            { class: "one-of-two" },
            make("p", { class: "of" }, this.names()[i]),
            graph.selected
              ? inspect(graph, graph.selected, (thing) => graph.goTo(thing))
              : make("p", { class: "hint" }, "It has no such box."),
          ),
        ),
      ].filter(Boolean),
    );
  }

  // What is scrolled in one is scrolled in the other, by share, because one may be longer.
  link() {
    const panes = this.graphs.map((graph) => graph.canvas.pane);
    let leader = null;
    panes.forEach((pane, i) => {
      for (const kind of ["pointerenter", "focusin", "wheel", "touchstart"])
        pane.addEventListener(
          kind,
          () => {
            leader = i;
          },
          { passive: true },
        );
      pane.addEventListener(
        "scroll",
        () => {
          if (leader !== i) return;
          const other = panes[1 - i];
          const share = (at, size, view) => (size > view ? at / (size - view) : 0);
          other.scrollTop =
            share(pane.scrollTop, pane.scrollHeight, pane.clientHeight) * (other.scrollHeight - other.clientHeight);
          other.scrollLeft = share(pane.scrollLeft, pane.scrollWidth, pane.clientWidth) * (other.scrollWidth - other.clientWidth);
        },
        { passive: true },
      );
    });
  }

  differenceTable(list, paths) {
    const amount = (value) => (/^\d+$/.test(String(value)) ? Number(value) : null);
    const written = (value, what) => {
      if (value === null || value === undefined) return "–";
      const number = amount(value);
      if (number === null) return String(value);
      return what.includes("bytes")
        ? bytes(number)
        : what.includes("FLOPs")
          ? flops(number)
          : what.includes("parameters")
            ? count(number)
            : exact(number);
    };
    const moved = ({ a, b }) => {
      const [x, y] = [amount(a), amount(b)];
      return x === null || y === null ? make("td", {}) : make("td", { class: y < x ? "less" : "more" }, change(x, y));
    };
    return make(
      "table",
      { class: paths ? "table" : "small" },
      tableHead(paths ? ["Where", "What", ...this.names(), "Δ"] : ["What", ...this.shortNames()]),
      make(
        "tbody",
        {},
        list.map((difference) =>
          make(
            "tr",
            {},
            paths
              ? make(
                  "th",
                  { scope: "row" },
                  difference.path
                    ? make(
                        "button",
                        { type: "button", class: "lead-to", onclick: () => this.lead(difference.first ?? difference.path) },
                        difference.path,
                      )
                    : "the model",
                )
              : null,
            make("td", {}, difference.what),
            make("td", { title: String(difference.a ?? "") }, written(difference.a, difference.what)),
            make("td", { title: String(difference.b ?? "") }, written(difference.b, difference.what)),
            paths ? moved(difference) : null,
          ),
        ),
      ),
    );
  }

  lead(path) {
    const wanted = path.split(".").map((part) => turns(part) ?? part);
    const where = this.graphs.map((graph) => graph.stage.boxes.find((box) => box.shown === box && meets(box.span, wanted)));
    this.tabs.open("graph");
    this.graphs.forEach((graph, i) => {
      if (where[i]) graph.goTo(where[i]);
    });
  }

  drawDifferences() {
    this.list.replaceChildren(
      make(
        "p",
        { class: "headline" },
        make("b", {}, exact(this.differences.length)),
        this.differences.length === 1 ? " difference" : " differences",
      ),
      make("div", { class: "scroll" }, this.differenceTable(sameDifferences(this.differences), true)),
    );
  }

  // Both pictures' boxes side by side, of the last stage that both have. Repeats may be folded differently in the two: what
  // is compared is all turns of one with all turns of the other.
  drawCosts() {
    const name = this.stageNames().at(-1),
      [a, b] = this.graphs.map((graph) => allTurns(graph.stages.find((stage) => stage.name === name)));
    const sides = [
      ["Parameters", count, (sums) => sums.parameters],
      ["FLOPs", flops, (sums) => sums.forward + sums.backward + sums.recompute],
      ["Bytes moved", bytes, (sums) => sums.bytes],
      ["Kept", bytes, (sums) => sums.kept],
    ].filter(([, , of]) => of(a.sums) || of(b.sums));
    const rows = [];
    const visit = (one, two, depth) => {
      rows.push({ one, two, depth });
      if (depth > 2) return;
      for (const path of new Set([...(one?.children.keys() ?? []), ...(two?.children.keys() ?? [])]))
        visit(one?.children.get(path), two?.children.get(path), depth + 1);
    };
    visit(a, b, 0);
    const cells = (write, of, one, two) => {
      const [x, y] = [one ? of(one.sums) : 0, two ? of(two.sums) : 0];
      return [x, y]
        .map((value, i) =>
          make("td", { class: `number ${i ? "" : "first-of-three"}`, title: exact(value) }, value ? write(value) : ""),
        )
        .concat(
          make(
            "td",
            { class: `number ${y < x ? "less" : y > x ? "more" : ""}` },
            x === y ? "" : !x ? "new" : !y ? "gone" : change(x, y),
          ),
        );
    };
    const [first, second] = this.shortNames();
    const title = (text) => make("th", { scope: "colgroup", colspan: "3", class: "number first-of-three" }, text);
    this.both.replaceChildren(
      make(
        "div",
        { class: "scroll", tabindex: "0", role: "region", "aria-label": "Costs of both" },
        make(
          "table",
          { class: "table two" },
          tableHead(
            ["", ...sides.map(([text]) => title(text))],
            [
              "Box",
              ...sides.flatMap(() => [
                [first, "number first-of-three"],
                [second, "number"],
                ["Δ", "number"],
              ]),
            ],
          ),
          make(
            "tbody",
            {},
            rows.map(({ one, two, depth }) =>
              make(
                "tr",
                { class: (two ?? one).kind },
                make("th", { scope: "row", style: { "--depth": depth } }, (two ?? one).label),
                sides.map(([, write, of]) => cells(write, of, one, two)),
              ),
            ),
          ),
        ),
      ),
    );
  }
}

// Whether a path stands for a box or something in it.
function within(path, outer) {
  return path.length >= outer.length && outer.every((part, i) => partMeets(part, path[i]));
}

// Differences that differ in nothing but the number of their layer as one.
function sameDifferences(differences) {
  const rows = new Map();
  for (const difference of differences) {
    const parts = difference.path ? difference.path.split(".") : [],
      number = parts.findIndex((part) => /^\d+$/.test(part));
    const key = JSON.stringify([
      parts.map((part, i) => (i === number ? "*" : part)),
      difference.what,
      difference.a,
      difference.b,
    ]);
    if (!rows.has(key)) rows.set(key, { ...difference, first: difference.path, parts, number, turns: [] });
    if (number >= 0) rows.get(key).turns.push(Number(parts[number]));
  }
  return [...rows.values()].map((row) =>
    row.number < 0 ? row : { ...row, path: row.parts.map((part, i) => (i === row.number ? runs(row.turns) : part)).join(".") },
  );
}

// The boxes of a stage with all turns of a repeat taken together: {label, kind, sums, children}.
function allTurns(stage) {
  const visit = (boxes) => {
    const sums = {},
      children = new Map();
    for (const box of boxes) {
      for (const [key, value] of Object.entries(box.total)) sums[key] = (sums[key] ?? 0) + value;
      for (const child of box.children) {
        if (!child.total.operations && !child.total.parameters) continue;
        const path = child.span.map((part) => (Array.isArray(part) ? "*" : part)).join(".");
        if (!children.has(path)) children.set(path, []);
        children.get(path).push(child);
      }
    }
    const [first] = boxes,
      turn = Array.isArray(first.span.at(-1)),
      number = boxes.reduce((sum, box) => sum + box.times, 0);
    const label = turn ? `${first.span.at(-2)} ${times(number)}` : first.label || boxTitle(first);
    return {
      label,
      kind: turn ? "fold" : first.kind,
      sums,
      children: new Map([...children].map(([path, members]) => [path, visit(members)])),
    };
  };
  return visit([stage.model]);
}
