// The fourth tab: every linear of the model, which were rewritten, with which rank, and why others were not.

class Linears {
  constructor(picture, go) {
    this.linears = picture.linears;
    this.go = go;
    this.show = "all";
    this.root = make("div", { class: "linears page" });
  }

  draw() {
    const dense = this.linears.filter((linear) => linear.rank === null || linear.rank === undefined);
    const pairs = this.linears.length - dense.length;
    const saved = this.linears.reduce((sum, linear) => sum + (linear.saved_parameters ?? 0), 0);
    const rows = sameLinears(this.linears).filter((row) => this.show === "all" || (this.show === "pairs") === Boolean(row.rank));
    // One scale for all; a head over the vocabulary is torn, as in the graph.
    const inLayers = this.linears.filter((linear) => /\.\d+\./.test(linear.path));
    const widest = Math.max(
      1,
      ...(inLayers.length ? inLayers : this.linears).flatMap((linear) => [linear.inputs, linear.outputs]),
    );
    this.root.replaceChildren(
      make(
        "p",
        { class: "headline" },
        make("b", {}, exact(pairs)),
        ` of ${plural(this.linears.length, "linear")} became CoLA pairs`,
        pairs ? [" and saved ", make("b", {}, count(saved)), " weights"] : null,
        "; ",
        make("b", {}, exact(dense.length)),
        " stayed dense.",
      ),
      make(
        "div",
        { class: "bar-of-tools" },
        choice(
          "linears",
          "Which",
          [
            ["all", "all"],
            ["dense", "not rewritten"],
            ["pairs", "rewritten"],
          ],
          this.show,
          (show) => {
            this.show = show;
            this.draw();
          },
        ),
      ),
      make(
        "div",
        { class: "scroll", tabindex: "0", role: "region", "aria-label": "Linears" },
        make(
          "table",
          { class: "table" },
          tableHead([
            "Linear",
            ["", "shape-cell"],
            ["Rank", "number"],
            ["In → out", "number"],
            ["Sites", "number"],
            "Between",
            ["Weights saved", "number"],
            ["FLOPs saved a token", "number"],
            "Why it stayed dense",
          ]),
          make(
            "tbody",
            {},
            rows.map((row) =>
              make(
                "tr",
                { class: row.rank ? "pair" : "dense", "data-path": row.path },
                make(
                  "th",
                  { scope: "row" },
                  make("button", { type: "button", class: "lead-to", onclick: () => this.go(row.first) }, row.path),
                  row.reason && make("span", { class: "why-narrow" }, row.reason),
                ),
                make("td", { class: "shape-cell" }, glyph(row, 56 / widest, 56, 20)),
                make("td", { class: "number rank" }, row.rank ? exact(row.rank) : "dense"),
                make("td", { class: "number" }, `${exact(row.inputs)} → ${exact(row.outputs)}`),
                make("td", { class: "number" }, exact(row.sites)),
                make("td", {}, row.rank ? (row.activation ?? "nothing") : ""),
                make("td", { class: "number" }, row.saved_parameters ? count(row.saved_parameters) : ""),
                make("td", { class: "number" }, row.saved_flops ? flops(row.saved_flops) : ""),
                make("td", { class: "reason" }, row.reason ?? ""),
              ),
            ),
          ),
        ),
      ),
    );
  }
}

// Linears that differ in nothing but the number of their layer as one row; those that stayed dense first.
function sameLinears(linears) {
  const rows = new Map();
  linears.forEach((linear, order) => {
    const parts = linear.path.split("."),
      number = parts.findIndex((part) => /^\d+$/.test(part));
    const turn = number < 0 ? null : Number(parts[number]);
    const name = parts.map((part, i) => (i === number ? "*" : part)).join(".");
    const key = JSON.stringify([name, linear.inputs, linear.outputs, linear.rank, linear.activation, linear.reason]);
    if (!rows.has(key))
      rows.set(key, {
        ...linear,
        first: linear.path,
        order,
        parts,
        number,
        turns: [],
        sites: 0,
        saved_parameters: 0,
        saved_flops: 0,
      });
    const row = rows.get(key);
    row.sites++;
    row.saved_parameters += linear.saved_parameters ?? 0;
    row.saved_flops += linear.saved_flops ?? 0;
    if (turn !== null) row.turns.push(turn);
  });
  for (const row of rows.values())
    if (row.number >= 0) row.path = row.parts.map((part, i) => (i === row.number ? runs(row.turns) : part)).join(".");
  // One that stands alone against its like is what somebody looks for: it comes before those.
  return [...rows.values()].sort(
    (a, b) =>
      Boolean(a.rank) - Boolean(b.rank) || (a.turns.length === 1 ? 0 : 1) - (b.turns.length === 1 ? 0 : 1) || a.order - b.order,
  );
}

// [0, 1, 2, 8, 9] is "0–2,8–9".
function runs(numbers) {
  const sorted = [...numbers].sort((a, b) => a - b),
    parts = [];
  for (const number of sorted) {
    const last = parts[parts.length - 1];
    if (last && last[1] === number - 1) last[1] = number;
    else parts.push([number, number]);
  }
  return parts.map(([first, last]) => (first === last ? String(first) : `${first}–${last}`)).join(",");
}
