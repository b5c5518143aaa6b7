// The third tab: what everything costs, by box or by kind of operation, sorted by any column.

const COST_COLUMNS = [
  { key: "name", title: "Box", number: false },
  { key: "times", title: "×", write: (row) => (row.times > 1 ? exact(row.times) : "") },
  { key: "parameters", title: "Parameters", write: (row) => (row.parameters ? count(row.parameters) : "") },
  { key: "forward", title: "Forward", write: (row) => (row.forward ? flops(row.forward) : "") },
  { key: "backward", title: "Backward", write: (row) => (row.backward ? flops(row.backward) : "") },
  { key: "recompute", title: "Recompute", write: (row) => (row.recompute ? flops(row.recompute) : "") },
  { key: "bytes", title: "Bytes moved", write: (row) => (row.bytes ? bytes(row.bytes) : "") },
  { key: "kept", title: "Kept", write: (row) => (row.kept ? bytes(row.kept) : "") },
  { key: "share", title: "Share of FLOPs", write: (row) => percent(row.share) },
];

class Costs {
  // `stages`: of which one is told about, at first the last: what a training step costs. `go(stage, box)`: leads to a box in
  // the graph.
  constructor(stages, go) {
    this.stages = stages;
    this.stage = stages[stages.length - 1];
    this.opened = null;
    this.go = go;
    this.by = "box";
    this.sort = null;
    this.down = true;
    this.root = make("div", { class: "costs page" });
  }

  draw() {
    const { stage } = this;
    if (this.opened !== stage) {
      const open = new Set([stage.model.key]);
      for (const box of stage.model.children) if (box.kind === "fold" || box.kind === "turn") open.add(box.key);
      this.open = open;
      this.opened = stage;
    }
    const rows = this.by === "box" ? this.boxRows() : this.kindRows();
    const columns = COST_COLUMNS.filter(
      (column) => ["name", "times", "share"].includes(column.key) || rows.some((row) => row[column.key]),
    ).filter((column) => column.key !== "times" || this.by === "box");
    // On a narrow screen what is asked most stands where no scrolling is needed.
    if (window.innerWidth < 700) columns.splice(1, 0, columns.pop());
    this.root.replaceChildren(
      make(
        "div",
        { class: "bar-of-tools" },
        choice(
          "by",
          "Rows",
          [
            ["box", "by box"],
            ["kind", "by kind"],
            ["op", "by operation"],
          ],
          this.by,
          (by) => {
            this.by = by;
            this.draw();
          },
        ),
        choice(
          "cost-stage",
          "Stage",
          this.stages.map(({ name, title }) => [name, name, title]),
          stage.name,
          (name) => {
            this.stage = this.stages.find((one) => one.name === name);
            this.draw();
          },
        ),
      ),
      stageNote(stage, "Note: ") ?? "",
      make(
        "div",
        { class: "scroll", tabindex: "0", role: "region", "aria-label": "Costs" },
        make(
          "table",
          { class: "table" },
          tableHead(columns.map((column) => this.heading(column))),
          make(
            "tbody",
            {},
            rows.map((row) => this.row(row, columns)),
          ),
        ),
      ),
    );
  }

  heading(column) {
    const sorted = this.sort === column.key;
    const title = column.key === "name" ? { box: "Box", kind: "Kind", op: "Operation" }[this.by] : column.title;
    return make(
      "th",
      {
        scope: "col",
        class: column.number === false ? "" : "number",
        "aria-sort": sorted ? (this.down ? "descending" : "ascending") : "none",
      },
      make(
        "button",
        {
          type: "button",
          "data-sort": column.key,
          onclick: () => {
            // Largest first, then smallest first, then as the model runs.
            if (!sorted) {
              this.sort = column.key;
              this.down = column.number !== false;
            } else if (this.down === (column.number !== false)) this.down = !this.down;
            else this.sort = null;
            this.draw();
            this.root.querySelector(`[data-sort="${column.key}"]`).focus();
          },
        },
        title,
        make("i", { "aria-hidden": "true" }, sorted ? (this.down ? "↓" : "↑") : ""),
      ),
    );
  }

  sorted(rows) {
    if (!this.sort) return rows;
    const sign = this.down ? -1 : 1,
      key = this.sort;
    return [...rows].sort((a, b) =>
      key === "name" ? sign * a.name.localeCompare(b.name, "en", { numeric: true }) : sign * ((a[key] ?? 0) - (b[key] ?? 0)),
    );
  }

  // A box's children are sorted among themselves, so that they stay with it.
  boxRows() {
    const { stage } = this,
      rows = [];
    const visit = (box, depth) => {
      const row = {
        thing: box,
        depth,
        name: box.label || boxTitle(box),
        times: box.times,
        ...box.total,
        share: stage.flops ? total(box) / stage.flops : 0,
        kind: box.kind,
        open: this.open.has(box.key),
        inner: box.children.length > 0,
      };
      rows.push(row);
      if (!row.open) return;
      for (const child of this.sorted(
        box.children
          .filter((child) => child.total.operations || child.total.parameters)
          .map((child) => ({ box: child, name: child.label, times: child.times, ...child.total, share: total(child) })),
      ))
        visit(child.box, depth + 1);
    };
    visit(stage.model, 0);
    return rows;
  }

  kindRows() {
    const { stage } = this,
      rows = new Map();
    for (const node of stage.nodes) {
      if (!stage.counts(node)) continue;
      const name = this.by === "kind" ? (node.kind === "view" ? "reshape" : node.kind) : node.op;
      if (!rows.has(name))
        rows.set(name, {
          name,
          depth: 0,
          kind: node.kind,
          parameters: 0,
          forward: 0,
          backward: 0,
          recompute: 0,
          bytes: 0,
          kept: 0,
          share: 0,
        });
      const row = rows.get(name);
      row.parameters += node.parameters * node.times;
      // An operation of both passes (a loss with its gradient) says how much of it is forward.
      const ahead = node.forward_flops ?? (node.phase === "forward" ? node.flops : 0);
      row.forward += ahead * node.times;
      if (node.phase in row && node.phase !== "forward") row[node.phase] += (node.flops - ahead) * node.times;
      else if (node.phase === "forward") row.backward += (node.flops - ahead) * node.times;
      row.bytes += node.bytes * node.times;
      row.kept +=
        node.results.reduce((sum, index) => sum + (stage.values[index].kept ? stage.values[index].bytes : 0), 0) * node.times;
      row.share += stage.flops ? (node.flops * node.times) / stage.flops : 0;
    }
    return this.sorted([...rows.values()].filter((row) => row.parameters || row.share || row.bytes));
  }

  row(row, columns) {
    const name = make(
      "th",
      { scope: "row", class: `kind-${row.kind}`, style: { "--depth": row.depth } },
      row.inner
        ? make(
            "button",
            {
              type: "button",
              class: "fold-mark",
              "aria-expanded": String(row.open),
              "aria-label": `${row.open ? "Close" : "Open"} ${row.name}`,
              onclick: () => {
                if (row.open) this.open.delete(row.thing.key);
                else this.open.add(row.thing.key);
                this.draw();
                [...this.root.querySelectorAll("tbody tr")]
                  .find((tr) => tr.dataset.path === row.thing.path)
                  ?.querySelector(".fold-mark")
                  .focus();
              },
            },
            row.open ? "−" : "+",
          )
        : make("i", { class: "no-mark" }),
      row.thing
        ? make("button", { type: "button", class: "lead-to", onclick: () => this.go(this.stage, row.thing) }, row.name)
        : make("span", {}, row.name),
    );
    return make(
      "tr",
      { class: row.kind, "data-path": row.thing?.path ?? row.name },
      columns.map((column) =>
        column.key === "name"
          ? name
          : column.key === "share"
            ? make(
                "td",
                { class: "number share-cell", style: { "--share": `${(100 * Math.min(1, row.share)).toFixed(1)}%` } },
                make("span", {}, column.write(row)),
              )
            : make("td", { class: "number", title: row[column.key] ? exact(row[column.key]) : null }, column.write(row)),
      ),
    );
  }
}
