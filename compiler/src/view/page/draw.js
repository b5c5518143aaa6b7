// Puts a scene on the page: boxes and nodes as elements that can be reached by keyboard, edges as one SVG behind them.
// Elements keep their identity from scene to scene, so that what moves is seen to move.

const GLYPH_WIDTH = 132;

class Canvas {
  // `on`: {toggle(card), select(card)}.
  constructor(on) {
    this.on = on;
    this.elements = new Map();
    this.svg = makeSvg("svg", { class: "edges", "aria-hidden": "true" });
    this.titles = make("div", { class: "columns", "aria-hidden": "true" });
    this.cards = make("div", { class: "cards", role: "tree", "aria-label": "The graph as nested boxes" });
    this.sheet = make("div", { class: "sheet" }, this.titles, this.svg, this.cards);
    this.pane = make("div", { class: "canvas" }, make("div", { class: "stretch" }, this.sheet));
    this.zoom = 1;
    this.cards.addEventListener("keydown", (event) => this.key(event));
    this.cards.addEventListener("mouseover", (event) => this.hover(event.target.closest(".card")));
    this.cards.addEventListener("mouseleave", () => this.hover(null));
    this.pane.addEventListener(
      "wheel",
      (event) => {
        if (!event.ctrlKey) return;
        event.preventDefault();
        this.setZoom(this.zoom * Math.exp(-event.deltaY / 300));
      },
      { passive: false },
    );
    this.drag();
  }

  show(stage, drawn, look) {
    this.stage = stage;
    this.scene = drawn;
    this.look = look;
    this.scale = glyphScale(stage, GLYPH_WIDTH);
    const top = Math.max(1e-30, ...drawn.cards.map((card) => costOf(card)).filter((_, i) => !drawn.cards[i].open));
    const kept = new Set();
    let before = null;
    for (const card of drawn.cards) {
      let element = this.elements.get(card.key);
      if (!element) {
        element = { root: make("div", { role: "treeitem", tabindex: "-1" }) };
        element.root.addEventListener("click", (event) => {
          event.stopPropagation();
          this.press(element.card);
        });
        this.elements.set(card.key, element);
      }
      element.card = card;
      kept.add(card.key);
      this.fill(element, card, stage, top);
      if (before ? before.nextSibling !== element.root : this.cards.firstChild !== element.root)
        this.cards.insertBefore(element.root, before ? before.nextSibling : this.cards.firstChild);
      before = element.root;
    }
    for (const [key, element] of this.elements)
      if (!kept.has(key)) {
        element.root.remove();
        this.elements.delete(key);
      }
    this.drawEdges(stage, drawn);
    this.titles.replaceChildren(
      ...(drawn.columns.length > 1 ? drawn.columns : []).map((column) =>
        make(
          "div",
          {
            class: `column ${column.phase.name}`,
            style: { left: `${column.x}px`, top: `${column.y - COLUMN_HEAD}px`, width: `${column.w}px` },
          },
          column.phase.up ? `${column.phase.title} ↑` : `${column.phase.title} ↓`,
        ),
      ),
    );
    this.size();
    if (!this.cards.querySelector('[tabindex="0"]')) this.cards.firstElementChild?.setAttribute("tabindex", "0");
  }

  fill(element, card, stage, top) {
    const { root } = element,
      thing = card.node ?? card.box;
    const classes = ["card", card.kind, `phase-${card.phase}`, card.open ? "open" : "closed"];
    if (card.box) classes.push(`is-${card.box.kind}`, `depth-${Math.min(card.level - 1, 5)}`);
    if (card.node) classes.push(`kind-${card.node.kind}`);
    if ((card.box ?? card.alone)?.times > 1 && card.box?.kind === "fold") classes.push("stacked");
    if (this.look.differs?.(thing, card.open)) classes.push("differs");
    root.className = classes.join(" ");
    Object.assign(root.style, { left: `${card.x}px`, top: `${card.y}px`, width: `${card.w}px`, height: `${card.h}px` });
    root.style.setProperty("--heat", `${Math.round(100 * Math.sqrt(costOf(card) / top))}%`);
    root.toggleAttribute("aria-expanded", false);
    root.setAttribute("aria-level", card.level);
    root.setAttribute("aria-selected", String(this.look.selected === thing || this.look.selected === card.alone));
    root.dataset.key = card.key;
    root.dataset.path = card.node ? card.node.path : card.box.path;
    if (card.box) root.setAttribute("aria-expanded", String(card.open));
    root.setAttribute("aria-label", this.spoken(card, stage));
    root.replaceChildren(...(card.node ? this.nodeParts(card, stage) : this.boxParts(card, stage)));
  }

  spoken(card, stage) {
    if (card.node) return [card.title, card.node.kind, card.phase, card.shape, card.figures].filter(Boolean).join(", ");
    return [boxTitleShort(card.box), card.phase, boxNote(stage, card.box, card.phase)].filter(Boolean).join(", ");
  }

  nodeParts(card, stage) {
    const node = card.node,
      kept = node.results.some((index) => stage.values[index].kept);
    return [
      make(
        "span",
        { class: "title" },
        card.title,
        kept && make("i", { class: "kept", title: "kept for the backward pass" }),
        node.phase === "recompute" && make("i", { class: "again", title: "made again in the backward pass" }, "↻"),
        halfGlyph(node, 40, 13),
      ),
      card.shape && make("span", { class: "shape" }, card.shape),
      card.figures && make("span", { class: "figures" }, card.figures),
    ].filter(Boolean);
  }

  boxParts(card, stage) {
    const box = card.box,
      mark = make("i", { class: "fold-mark", "aria-hidden": "true" }, card.open ? "−" : "+");
    const kept =
      card.phase === "forward" &&
      box.total.kept > 0 &&
      make("i", { class: "kept", title: `${bytes(box.total.kept)} kept for the backward pass` });
    if (card.open)
      return [
        make(
          "span",
          { class: "head" },
          mark,
          make("b", {}, boxTitleShort(box)),
          make("span", { class: "figures" }, boxNote(stage, box, card.phase)),
          kept || "",
        ),
      ];
    const share = stage.flops ? (box.total[card.phase] ?? 0) / stage.flops : 0;
    const bar = make("span", { class: "share", style: { "--share": `${(100 * share).toFixed(2)}%` } });
    const waist = card.glyph && waistOf(stage, box);
    const title = make("span", { class: "title" }, make("b", {}, boxTitleShort(box)), kept || "", mark);
    if (!waist) return [title, make("span", { class: "figures" }, boxNote(stage, box, card.phase)), bar];
    const foot = waist.rank
      ? `${count(waist.parameters)} weights, ${change(waist.dense_parameters, waist.parameters)}`
      : box.reason
        ? "stays dense"
        : `${count(waist.inputs * waist.outputs)} weights`;
    return [
      title,
      make(
        "span",
        { class: "waist" },
        make(
          "span",
          { class: "ends" },
          make("span", {}, exact(waist.inputs)),
          waist.rank ? make("span", { class: "rank" }, `r ${exact(waist.rank)}`) : null,
          make("span", {}, exact(waist.outputs)),
        ),
        glyph(waist, this.scale, GLYPH_WIDTH, 58),
      ),
      make("span", { class: "figures" }, foot),
    ];
  }

  drawEdges(stage, drawn) {
    const largest = Math.max(1, ...drawn.edges.map((edge) => stage.values[edge.value].bytes));
    this.edges = drawn.edges.map((edge) => {
      const width = (1 + 2.2 * Math.sqrt(stage.values[edge.value].bytes / largest)).toFixed(2);
      const path = makeSvg("path", {
        class: `edge phase-${edge.phase}`,
        d: curve(edge.points),
        "stroke-width": width,
        "data-value": edge.value,
      });
      const [x, y] = edge.points[edge.points.length - 1];
      const up = edge.points[edge.points.length - 2][1] > y;
      const head =
        edge.arrow &&
        makeSvg("path", {
          class: `head phase-${edge.phase}`,
          d: up ? `M${x} ${y}l-4.5 7h9z` : `M${x} ${y}l-4.5 -7h9z`,
          "data-value": edge.value,
        });
      return { ...edge, path, head };
    });
    this.svg.replaceChildren(...this.edges.flatMap((edge) => (edge.head ? [edge.path, edge.head] : [edge.path])));
    this.mark();
  }

  // The sheet follows a mouse that pulls it; a pull is no click.
  drag() {
    let from = null,
      pulled = false;
    this.pane.addEventListener("pointerdown", (event) => {
      pulled = false;
      if (event.pointerType === "mouse" && event.button === 0)
        from = [event.clientX, event.clientY, this.pane.scrollLeft, this.pane.scrollTop];
    });
    window.addEventListener("pointermove", (event) => {
      if (!from) return;
      const [dx, dy] = [event.clientX - from[0], event.clientY - from[1]];
      if (!pulled && Math.hypot(dx, dy) < 5) return;
      pulled = true;
      this.pane.classList.add("pulled");
      this.pane.scrollTo(from[2] - dx, from[3] - dy);
    });
    window.addEventListener("pointerup", () => {
      from = null;
      this.pane.classList.remove("pulled");
    });
    this.pane.addEventListener(
      "click",
      (event) => {
        if (pulled) event.stopPropagation();
        pulled = false;
      },
      { capture: true },
    );
  }

  // What the pointer is on shows its edges, if it is no box that holds others.
  hover(element) {
    const card = element && this.elements.get(element.dataset.key)?.card;
    const thing = card && !card.open ? (card.alone ?? card.node ?? card.box) : null;
    if (thing === this.hovered) return;
    this.hovered = thing;
    this.mark();
  }

  // Edges of the selected node stand out, and where the other end is in another column a line leads there.
  mark() {
    const selected = this.look.selected,
      hovered = this.hovered;
    this.svg.querySelectorAll(".lead").forEach((line) => line.remove());
    const made = new Set(selected?.results ?? []);
    const read = new Set((selected?.operands ?? []).map(Stage.source));
    for (const edge of this.edges) {
      const lit =
        selected &&
        (selected.operands
          ? made.has(edge.value) ||
            (read.has(edge.value) && (edge.to === selected || edge.to === null || this.holds(edge.to, selected)))
          : edge.from === selected || edge.to === selected);
      const near = hovered && (edge.from === hovered || edge.to === hovered);
      for (const part of [edge.path, edge.head]) {
        part?.classList?.toggle("lit", Boolean(lit));
        part?.classList?.toggle("near", Boolean(near));
      }
    }
    if (!selected?.operands) return;
    const here = this.cardOf(selected);
    const others = [
      ...[...read]
        .filter((index) => index !== null)
        .map((index) => this.stage.nodes[this.stage.values[index].node])
        .filter((node) => node.phase !== selected.phase),
      ...selected.results.flatMap((index) => this.stage.values[index].readers).filter((node) => node.phase !== selected.phase),
    ];
    for (const node of others) {
      const there = this.cardOf(node);
      if (!here || !there || here === there) continue;
      const [left, right] = here.x < there.x ? [here, there] : [there, here];
      const y = (card) => card.y + (card.open ? HEAD / 2 : card.h / 2);
      const [x0, y0, x1, y1] = [left.x + left.w, y(left), right.x, y(right)];
      this.svg.append(makeSvg("path", { class: "lead", d: `M${x0} ${y0}C${x0 + 60} ${y0} ${x1 - 60} ${y1} ${x1} ${y1}` }));
    }
  }

  holds(outer, node) {
    return [...this.stage.around(node)].includes(outer);
  }

  // The card that shows a node or box: its own, or the nearest closed box around it.
  cardOf(thing, phase = thing.phase) {
    const things = [thing, ...this.stage.around(thing)];
    for (const one of things) {
      const card = this.scene.cards.find(
        (card) => (card.node === one || card.box === one || card.alone === one) && (!phase || card.phase === phase),
      );
      if (card) return card;
    }
    return null;
  }

  press(card) {
    this.focus(card.key);
    if (card.box) this.on.toggle(card.box, card.phase);
    else this.on.select(card.node);
  }

  key(event) {
    const at = event.target.closest(".card");
    if (!at) return;
    const card = this.elements.get(at.dataset.key).card;
    const list = this.scene.cards,
      i = list.findIndex((other) => other.key === card.key);
    const go = (other) => other && this.focus(other.key, true);
    const actions = {
      ArrowDown: () => go(list[i + 1]),
      ArrowUp: () => go(list[i - 1]),
      Home: () => go(list[0]),
      End: () => go(list[list.length - 1]),
      ArrowRight: () => (card.box && !card.open ? this.on.toggle(card.box, card.phase) : card.open && go(list[i + 1])),
      ArrowLeft: () =>
        card.box && card.open ? this.on.toggle(card.box, card.phase) : go(list.find((other) => other.key === card.above)),
      Enter: () => this.press(card),
      " ": () => this.press(card),
    };
    const action = actions[event.key];
    if (!action || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation();
    action();
  }

  focus(key, move = false) {
    for (const element of this.cards.querySelectorAll('[tabindex="0"]')) element.tabIndex = -1;
    const element = this.elements.get(key);
    if (!element) return;
    element.root.tabIndex = 0;
    element.root.focus({ preventScroll: true });
    if (move) this.reveal(element.card);
  }

  // Scrolls so that a card is seen; nothing moves when it already is.
  reveal(card, centre = false) {
    const z = this.zoom,
      pane = this.pane,
      margin = 48;
    const [x, y] = [this.left + card.x * z, this.top + card.y * z],
      [w, h] = [card.w * z, (card.open ? HEAD : card.h) * z];
    const along = (from, size, scroll, view) =>
      centre
        ? from + size / 2 - view / 2
        : from < scroll + margin
          ? from - margin
          : from + size > scroll + view - margin
            ? from + size - view + margin
            : scroll;
    pane.scrollTo({
      left: along(x, Math.min(w, pane.clientWidth - 2 * margin), pane.scrollLeft, pane.clientWidth),
      top: along(y, h, pane.scrollTop, pane.clientHeight),
      behavior: centre ? "auto" : "smooth",
    });
  }

  size() {
    const z = this.zoom,
      { w, h } = this.scene,
      margin = 28;
    const width = Math.max(this.pane.clientWidth, w * z + 2 * margin);
    this.left = Math.max(margin, (width - w * z) / 2);
    this.top = 16;
    Object.assign(this.sheet.parentElement.style, { width: `${width}px`, height: `${h * z + 2 * margin + this.top}px` });
    Object.assign(this.sheet.style, {
      width: `${w}px`,
      height: `${h}px`,
      transform: `translate(${this.left}px, ${this.top}px) scale(${z})`,
    });
    for (const [name, value] of [
      ["width", w],
      ["height", h],
      ["viewBox", `0 0 ${Math.max(1, w)} ${Math.max(1, h)}`],
    ])
      this.svg.setAttribute(name, value);
  }

  // Keeps what is in the middle in the middle.
  setZoom(zoom) {
    const pane = this.pane,
      before = this.zoom;
    const [cx, cy] = [
      (pane.scrollLeft + pane.clientWidth / 2 - this.left) / before,
      (pane.scrollTop + pane.clientHeight / 2 - this.top) / before,
    ];
    this.zoom = Math.min(2, Math.max(0.25, zoom));
    this.size();
    pane.scrollTo(this.left + cx * this.zoom - pane.clientWidth / 2, this.top + cy * this.zoom - pane.clientHeight / 2);
  }

  // As wide as the pane where text stays readable so; otherwise at a size that can be read, from its middle.
  fitReadable(least = 0.72) {
    const fitting = (this.pane.clientWidth - 40) / Math.max(1, this.scene.w);
    this.setZoom(Math.min(1, Math.max(least, fitting)));
    this.pane.scrollTo(this.scene.columns.length > 1 ? 0 : (this.pane.scrollWidth - this.pane.clientWidth) / 2, 0);
  }

  // What has a place before and after moves there, this once.
  glide() {
    this.sheet.classList.add("moving");
    clearTimeout(this.gliding);
    this.gliding = setTimeout(() => this.sheet.classList.remove("moving"), 400);
  }

  fit() {
    this.setZoom(Math.min(1, (this.pane.clientWidth - 56) / Math.max(1, this.scene.w)));
  }
}

// FLOPs by which cards are coloured.
function costOf(card) {
  if (card.node) return card.node.flops * card.node.times;
  return card.box.total[card.phase] ?? 0;
}
