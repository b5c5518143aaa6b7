// What there is to know about a box or a node, in a panel beside the graph.

// `go(thing)`: leads to another box or node of the stage.
function inspect(graph, thing, go) {
  const { stage } = graph;
  const panel = make("div", { class: "inspector-body" });
  if (!thing) return panel;
  const note = graph.note && make("p", { class: "note" }, graph.note);
  if (thing.operands) panel.append(...nodeSections(graph, stage, thing, go, note));
  else panel.append(...boxSections(graph, stage, thing, go, note));
  return panel;
}

const section = (title, ...parts) => make("section", {}, make("h3", {}, title), parts);

function facts(...rows) {
  return make(
    "dl",
    { class: "rows" },
    rows
      .filter((row) => row && row[1] !== null && row[1] !== undefined && row[1] !== "")
      .map(([name, value, help]) => [make("dt", {}, name), make("dd", { title: help }, value)]),
  );
}

// A button that leads to a node or box, with words on its right.
function leadTo(thing, text, figures, go) {
  return make(
    "li",
    {},
    make("button", { type: "button", class: "lead-to", onclick: () => go(thing) }, text),
    make("span", { class: "figures" }, figures),
  );
}

function boxSections(graph, stage, box, go, note) {
  const { total: sums, pair } = box;
  const kind =
    {
      model: "model",
      fold: `${exact((box.last ?? 0) - (box.first ?? 0) + 1)} identical turns`,
      turn: "one turn of a repeat",
      module: "module",
      linear: "dense linear",
      group: "linears as one product",
      pair: "CoLA pair",
    }[box.kind] ?? box.kind;
  const parts = [
    make(
      "header",
      {},
      make("p", { class: "what" }, kind, box.times > 1 && box.kind !== "fold" ? ` ${times(box.times)}` : ""),
      make("h2", {}, box.path === "" ? box.label : spanText(box.span)),
    ),
  ];
  if (note) parts.push(note);
  const waist = waistOf(stage, box);
  if (pair) {
    parts.push(
      make(
        "div",
        { class: "big-waist" },
        glyph(pair, 180 / Math.max(pair.inputs, pair.outputs), 180, 84),
        make(
          "div",
          { class: "ends" },
          make("span", {}, `in ${exact(pair.inputs)}`),
          make("span", { class: "rank" }, `rank ${exact(pair.rank)}`),
          make("span", {}, `out ${exact(pair.outputs)}`),
        ),
      ),
    );
    parts.push(
      section(
        "What the pair saved",
        make(
          "table",
          { class: "small" },
          tableHead(["", "dense", "pair", ""]),
          make(
            "tbody",
            {},
            [
              ["weights", count, pair.dense_parameters, pair.parameters],
              ["FLOPs", flops, pair.dense_flops, pair.flops],
            ].map(([name, write, a, b]) =>
              make(
                "tr",
                {},
                make("th", { scope: "row" }, name),
                make("td", {}, write(a)),
                make("td", {}, write(b)),
                make("td", { class: b < a ? "less" : "more" }, change(a, b)),
              ),
            ),
          ),
        ),
        pair.activation
          ? make("p", { class: "hint" }, `${pair.activation} between the two`)
          : make("p", { class: "hint" }, "nothing between the two"),
      ),
    );
  } else if (waist) {
    parts.push(
      section(
        box.reason ? "Not rewritten" : "Dense linear",
        box.reason && make("p", { class: "reason" }, box.reason),
        facts(["in", exact(waist.inputs)], ["out", exact(waist.outputs)]),
      ),
    );
  }
  const turnsNote = box.times > 1 ? `all ${exact(box.times)} together` : "";
  parts.push(
    section(
      turnsNote ? `Costs, ${turnsNote}` : "Costs",
      facts(
        ["parameters", sums.parameters ? count(sums.parameters) : null, exact(sums.parameters)],
        ["forward", sums.forward ? flops(sums.forward) : null, exact(sums.forward)],
        ["backward", sums.backward ? flops(sums.backward) : null, exact(sums.backward)],
        ["recompute", sums.recompute ? flops(sums.recompute) : null, exact(sums.recompute)],
        ["share of FLOPs", stage.flops ? percent(total(box) / stage.flops) : null],
        ["bytes moved", sums.bytes ? bytes(sums.bytes) : null, exact(sums.bytes)],
        ["kept for backward", sums.kept ? bytes(sums.kept) : null, exact(sums.kept)],
        ["operations", sums.operations ? exact(sums.operations) : null],
      ),
    ),
  );
  const shares = [...box.children]
    .map((child) => [child, total(child)])
    .filter(([, work]) => work > 0)
    .sort((a, b) => b[1] - a[1]);
  if (shares.length > 1)
    parts.push(
      section(
        "Where the FLOPs go",
        make(
          "ul",
          { class: "shares" },
          shares.map(([child, work]) =>
            make(
              "li",
              { style: { "--share": `${((100 * work) / total(box)).toFixed(1)}%` } },
              make("button", { type: "button", class: "lead-to", onclick: () => go(child) }, child.label || boxTitle(child)),
              make("span", { class: "figures" }, percent(work / total(box))),
            ),
          ),
        ),
      ),
    );
  if (box.kind === "model") parts.push(...linearsInShort(graph));
  const all = [...stage.inside(box)];
  const most = box.kind === "model" ? 8 : 28;
  const again = all.filter((node) => node.phase === "recompute");
  const within = (node) => {
    return nodeName(node, nodePath(node).split(".").slice(box.span.length).join("."));
  };
  if (again.length)
    parts.push(
      section(
        "Made again in the backward pass",
        longList(
          "leads recomputed",
          again.map((node) =>
            leadTo(node, within(node), node.results.map((index) => bytes(stage.values[index].bytes)).join(", "), go),
          ),
          most,
        ),
      ),
    );
  const kept = all.filter((node) => node.phase === "forward" && node.results.some((index) => stage.values[index].kept));
  if (kept.length)
    parts.push(
      section(
        "Kept for the backward pass",
        longList(
          "leads",
          kept.map((node) =>
            leadTo(
              node,
              within(node),
              bytes(
                node.results
                  .filter((index) => stage.values[index].kept)
                  .reduce((sum, index) => sum + stage.values[index].bytes, 0),
              ),
              go,
            ),
          ),
          most,
        ),
      ),
    );
  if (box.path !== "")
    parts.push(
      ...sources(
        graph,
        all.find((node) => !QUIET.has(node.kind)) ?? all[0],
        all.find((node) => node.spec_line),
      ),
    );
  return parts;
}

// Which linears became pairs, for those who have not looked at the table of them.
function linearsInShort(graph) {
  const { linears } = graph.picture,
    dense = linears.filter((linear) => !linear.rank);
  if (!linears.length) return [];
  const names = [...new Set(dense.map((linear) => linear.path.replace(/\.\d+\./g, ".*.")))];
  return [
    section(
      "Linears",
      make(
        "p",
        {},
        `${exact(linears.length - dense.length)} of ${exact(linears.length)} are CoLA pairs`,
        names.length && names.length <= 3 ? `; dense: ${names.join(", ")}` : "",
        ".",
      ),
    ),
  ];
}

// A list of which the rest is folded.
function longList(kind, items, most) {
  const rest = items.slice(most);
  return [
    make("ul", { class: kind }, items.slice(0, most)),
    rest.length
      ? make("details", {}, make("summary", {}, `${exact(rest.length)} more`), make("ul", { class: kind }, rest))
      : null,
  ];
}

function nodeSections(graph, stage, node, go, note) {
  const parts = [
    make(
      "header",
      {},
      make(
        "p",
        { class: "what" },
        `${node.kind === "view" ? "reshape" : node.kind}, ${node.phase}${node.times > 1 ? ` ${times(node.times)}` : ""}`,
      ),
      make("h2", {}, nodeName(node)),
    ),
  ];
  if (note) parts.push(note);
  parts.push(
    facts(
      ["operation", make("code", {}, node.op)],
      ["made by", node.pass],
      ["program", node.program?.replaceAll("_", " ")],
      ["position in it", Number.isInteger(node.position) ? exact(node.position) : null],
      ["recompute region", Number.isInteger(node.region) ? String(node.region) : null],
    ),
  );
  if (node.detail) parts.push(make("pre", { class: "detail" }, node.detail));
  const each = node.times > 1 ? ", each" : "";
  if (node.flops || node.bytes || node.parameters || node.workspace)
    parts.push(
      section(
        `Costs${each}`,
        facts(
          ["parameters", node.parameters ? count(node.parameters) : null, exact(node.parameters)],
          ["FLOPs", node.flops ? flops(node.flops) : null, exact(node.flops)],
          [
            "share of FLOPs",
            node.flops && stage.flops && stage.counts(node) ? percent((node.flops * node.times) / stage.flops) : null,
          ],
          ["bytes moved", node.bytes ? bytes(node.bytes) : null, exact(node.bytes)],
          ["workspace", node.workspace ? bytes(node.workspace) : null],
        ),
      ),
    );
  if (node.operands.length)
    parts.push(
      section(
        "Reads",
        make(
          "ul",
          { class: "leads" },
          node.operands.map((use) => {
            const value = stage.values[typeof use === "number" ? use : use.value],
              maker = value && stage.nodes[value.node];
            const when =
              typeof use === "number"
                ? ""
                : "of" in use
                  ? ` (turn ${use.of.join(", ")})`
                  : use.turn < 0
                    ? " (turn before)"
                    : " (turn after)";
            return maker ? leadTo(maker, nodeName(maker) + when, shortShape(value.shape), go) : null;
          }),
        ),
      ),
    );
  if (node.results.length)
    parts.push(
      section(
        node.results.length > 1 ? "Results" : "Result",
        node.results.map((index) => tensorFacts(graph, stage, stage.values[index])),
      ),
    );
  const readers = [...new Set(node.results.flatMap((index) => stage.values[index].readers))];
  if (readers.length)
    parts.push(
      section(
        "Read by",
        make(
          "ul",
          { class: "leads" },
          readers.map((reader) => leadTo(reader, nodeName(reader), reader.phase, go)),
        ),
      ),
    );
  parts.push(...sources(graph, node, node.spec_line ? node : null));
  return parts;
}

function tensorFacts(graph, stage, value) {
  const places = value.places ?? [];
  const shown = places
    .slice(0, 4)
    .map(([offset, first, last]) =>
      make("tr", {}, make("td", {}, exact(offset)), make("td", {}, `${exact(first)} – ${exact(last)}`)),
    );
  const rest = places
    .slice(4)
    .map(([offset, first, last]) =>
      make("tr", {}, make("td", {}, exact(offset)), make("td", {}, `${exact(first)} – ${exact(last)}`)),
    );
  return make(
    "div",
    { class: "tensor" },
    facts(
      ["shape", make("code", {}, shortShape(value.shape))],
      ["type", value.dtype],
      ["bytes", bytes(value.bytes), exact(value.bytes)],
      ["kept", value.kept ? "until the backward pass" : null],
      ["segment", value.segment],
    ),
    places.length ? make("table", { class: "small" }, tableHead(["offset", "alive"]), make("tbody", {}, shown)) : null,
    rest.length
      ? make(
          "details",
          {},
          make("summary", {}, `${exact(rest.length)} more turns`),
          make("table", { class: "small" }, make("tbody", {}, rest)),
        )
      : null,
  );
}

// The lines that a node came from, with those around them.
function sources(graph, node, specNode) {
  const { picture } = graph,
    parts = [];
  if (node?.line)
    parts.push(section(`${picture.architecture.name}, line ${node.line}`, excerpt(picture.architecture.text, node.line)));
  if (specNode?.spec_line)
    parts.push(section(`${picture.spec.name}, line ${specNode.spec_line}`, excerpt(picture.spec.text, specNode.spec_line)));
  return parts;
}

function excerpt(text, line) {
  const lines = text.split("\n"),
    from = Math.max(1, line - 2),
    to = Math.min(lines.length, line + 2);
  return make(
    "ol",
    { class: "excerpt", start: from, tabindex: "0", "aria-label": `Lines ${from} to ${to}` },
    Array.from({ length: Math.max(0, to - from + 1) }, (_, i) =>
      make("li", { value: from + i, class: from + i === line ? "this" : null }, make("code", {}, lines[from + i - 1])),
    ),
  );
}
