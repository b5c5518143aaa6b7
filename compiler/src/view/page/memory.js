// The second tab: the arena over time. Every tensor is a rectangle, as long as it lives and as high as its bytes.

const NAME = 0,
  PROGRAM = 1,
  OFFSET = 2,
  BYTES = 3,
  FIRST = 4,
  LAST = 5,
  LINE = 6,
  PHASE = 7;
const ARENA_TOP = 46,
  ARENA_LEFT = 66,
  ARENA_RIGHT = 14,
  ARENA_HEIGHT = 380,
  ALIVE_GAP = 44,
  ALIVE_HEIGHT = 110;

class Memory {
  constructor(picture) {
    this.memory = picture.memory;
    this.root = make("div", { class: "memory page" });
    this.program = Math.max(0, this.memory ? this.memory.programs.findIndex((program) => program.peak) : 0);
    this.observer = new ResizeObserver(() => {
      if (this.figure && this.figure.clientWidth && this.figure.clientWidth !== this.width) this.drawFigure();
    });
  }

  draw() {
    if (!this.memory) {
      this.root.replaceChildren(
        make("p", { class: "empty" }, "Only a plan has places in memory. Make one with colac compile, and draw that."),
      );
      return;
    }
    const { memory } = this,
      program = memory.programs[this.program];
    this.own = memory.tensors
      .map((tensor, index) => ({ tensor, index }))
      .filter(({ tensor }) => tensor[PROGRAM] === program.name);
    this.figure = make("div", {
      class: "arena",
      tabindex: "0",
      role: "group",
      "aria-label":
        "The arena over time. Left and right arrow keys move through the program, up and down through the tensors alive there.",
    });
    this.readout = make("div", { class: "readout", role: "status", hidden: true });
    this.root.replaceChildren(
      ...[
        this.segments(),
        memory.programs.length > 1 &&
          choice(
            "program",
            "Program",
            memory.programs.map(({ name }, i) => [i, name.replaceAll("_", " ")]),
            this.program,
            (i) => {
              this.program = i;
              this.draw();
            },
          ),
        this.peakLine(program),
        make("div", { class: "arena-frame" }, this.figure, this.readout),
        this.legend(),
        this.peakList(program),
      ].filter(Boolean),
    );
    this.cursor = null;
    this.chosen = null;
    this.figure.addEventListener("pointermove", (event) => this.point(event));
    this.figure.addEventListener("pointerdown", (event) => this.point(event));
    this.figure.addEventListener("pointerleave", () => this.choose(null));
    this.figure.addEventListener("blur", () => this.choose(null));
    this.figure.addEventListener("keydown", (event) => this.key(event));
    this.observer.disconnect();
    this.observer.observe(this.figure);
    this.drawFigure();
  }

  // All bytes of the plan as one bar.
  segments() {
    const { memory } = this,
      shown = memory.segments.filter(([, size]) => size > 0);
    return make(
      "div",
      { class: "segments" },
      make("p", { class: "headline" }, make("b", {}, bytes(memory.total)), " in all"),
      make(
        "div",
        { class: "bar", "aria-hidden": "true" },
        shown.map(([name, size]) =>
          make("span", {
            class: `segment-${name}`,
            style: { "flex-grow": size / memory.total },
            title: `${name}: ${bytes(size)}`,
          }),
        ),
      ),
      make(
        "ul",
        {},
        shown.map(([name, size]) =>
          make(
            "li",
            { class: `segment-${name}` },
            name,
            make("b", {}, bytes(size)),
            make("span", {}, percent(size / memory.total)),
          ),
        ),
      ),
    );
  }

  peakLine(program) {
    const { peak } = program;
    if (!peak || !this.own.length) return make("p", { class: "headline" }, "This program keeps nothing in the arena.");
    const largest = this.memory.tensors[peak.tensors[0]];
    return make(
      "p",
      { class: "headline peak-line" },
      "Peak ",
      make("b", {}, bytes(peak.bytes)),
      ` at operation ${exact(peak.position)} of ${exact(program.operations)}`,
      peak.path ? [", in ", make("code", {}, peak.path)] : null,
      largest ? ["; largest tensor there ", make("code", {}, largest[NAME]), ", ", make("b", {}, bytes(largest[BYTES]))] : null,
      ".",
    );
  }

  legend() {
    const phases = PHASES.filter((phase) => this.own.some(({ tensor }) => tensor[PHASE] === phase.name));
    return make(
      "div",
      { class: "legend" },
      phases.map((phase) => make("span", { class: `phase-${phase.name}` }, phase.name)),
    );
  }

  peakList(program) {
    const { peak } = program;
    if (!peak || !this.own.length) return null;
    const rows = peak.tensors.slice(0, 40).map((index) => {
      const tensor = this.memory.tensors[index];
      return make(
        "tr",
        {
          tabindex: "0",
          onfocus: () => this.choose(index),
          onmouseenter: () => this.choose(index),
          onblur: () => this.choose(null),
          onmouseleave: () => this.choose(null),
        },
        make("th", { scope: "row" }, make("code", {}, tensor[NAME])),
        make("td", { class: "number" }, bytes(tensor[BYTES])),
        make("td", { class: "number" }, percent(tensor[BYTES] / peak.bytes)),
        make("td", {}, tensor[PHASE]),
        make("td", { class: "number" }, `${exact(tensor[FIRST])} – ${exact(tensor[LAST])}`),
      );
    });
    return make(
      "section",
      { class: "peak-list" },
      make(
        "h3",
        {},
        `What is alive at the peak${peak.tensors.length > 40 ? `: the 40 largest of ${exact(peak.tensors.length)}` : ""}`,
      ),
      make(
        "div",
        { class: "scroll" },
        make(
          "table",
          { class: "table" },
          tableHead(["tensor", ["bytes", "number"], ["of the peak", "number"], "phase", ["alive", "number"]]),
          make("tbody", {}, rows),
        ),
      ),
    );
  }

  drawFigure() {
    const program = this.memory.programs[this.program];
    if (!this.own.length) {
      this.figure.replaceChildren();
      return;
    }
    const width = Math.max(300, this.figure.clientWidth || 1000);
    this.width = width;
    const right = width - ARENA_RIGHT,
      aliveTop = ARENA_TOP + ARENA_HEIGHT + ALIVE_GAP,
      height = aliveTop + ALIVE_HEIGHT + 30;
    const top = Math.max(1, program.arena, program.lower_bound);
    const x = (position) => ARENA_LEFT + (position / Math.max(1, program.operations)) * (right - ARENA_LEFT);
    const y = (offset) => ARENA_TOP + ARENA_HEIGHT * (1 - offset / top);
    const low = (amount) => aliveTop + ALIVE_HEIGHT * (1 - amount / top);
    this.scales = {
      x,
      y,
      position: (px) => ((px - ARENA_LEFT) / (right - ARENA_LEFT)) * program.operations,
      offset: (py) => (1 - (py - ARENA_TOP) / ARENA_HEIGHT) * top,
    };
    const svg = makeSvg("svg", {
      viewBox: `0 0 ${width} ${height}`,
      width,
      height,
      role: "img",
      "aria-label": "Lifetimes of tensors at their offsets, and the bytes alive below",
    });
    const round = (value) => value.toFixed(1);
    const text = (px, py, anchor, kind, content) =>
      svg.append(makeSvg("text", { x: round(px), y: round(py), "text-anchor": anchor, class: kind }, content));
    text(ARENA_LEFT, 16, "start", "panel", "Offset in the arena");
    text(ARENA_LEFT, aliveTop - 14, "start", "panel", "Bytes alive");
    for (const [scale, parts] of [
      [y, 4],
      [low, 2],
    ])
      for (const share of ticks(top, parts)) {
        svg.append(
          makeSvg("line", { class: "grid", x1: ARENA_LEFT, x2: right, y1: round(scale(share)), y2: round(scale(share)) }),
        );
        text(ARENA_LEFT - 8, scale(share) + 4, "end", "number", share ? bytes(share).replace(/\.0+ /, " ") : "0");
      }
    const last = program.operations;
    for (let i = 0; i <= 4; i++)
      text(
        x((last * i) / 4),
        height - 10,
        i === 0 ? "start" : i === 4 ? "end" : "middle",
        "number",
        i === 4 && width > 500 ? `operation ${exact(last)}` : exact(Math.round((last * i) / 4)),
      );
    this.rectangles = new Map();
    const group = makeSvg("g", { class: "tensors" });
    for (const { tensor, index } of this.own) {
      const w = x(tensor[LAST] + 1) - x(tensor[FIRST]),
        h = y(tensor[OFFSET]) - y(tensor[OFFSET] + tensor[BYTES]);
      const gap = h > 3 ? 0.5 : 0;
      const rectangle = makeSvg("rect", {
        class: `phase-${tensor[PHASE]}`,
        x: round(x(tensor[FIRST])),
        y: round(y(tensor[OFFSET] + tensor[BYTES]) + gap / 2),
        width: round(Math.max(0.6, w - (w > 3 ? 0.4 : 0))),
        height: round(Math.max(0.4, h - gap)),
        "data-tensor": index,
      });
      this.rectangles.set(index, rectangle);
      group.append(rectangle);
    }
    svg.append(group);
    if (program.alive.length) {
      let line = "";
      program.alive.forEach(([position, amount], i) => {
        line += i ? `H${round(x(position))}V${round(low(amount))}` : `M${round(x(position))} ${round(low(amount))}`;
      });
      line += `H${round(x(last))}`;
      svg.append(
        makeSvg("path", { class: "alive-area", d: `${line}V${round(low(0))}H${round(x(program.alive[0][0]))}Z` }),
        makeSvg("path", { class: "alive-line", d: line }),
      );
    }
    const { peak } = program;
    if (peak) {
      const px = round(x(peak.position + 0.5)),
        ends = px > width / 2;
      svg.append(
        makeSvg("line", { class: "peak", x1: px, x2: px, y1: ARENA_TOP - 8, y2: aliveTop + ALIVE_HEIGHT }),
        makeSvg("circle", { class: "peak-dot", cx: px, cy: round(low(peak.bytes)), r: 4 }),
      );
      text(Number(px) + (ends ? -6 : 6), ARENA_TOP - 10, ends ? "end" : "start", "peak-text", `peak ${bytes(peak.bytes)}`);
    }
    this.cursorLine = makeSvg("line", { class: "cursor", y1: ARENA_TOP, y2: aliveTop + ALIVE_HEIGHT, x1: -9, x2: -9 });
    svg.append(this.cursorLine);
    this.figure.replaceChildren(svg);
  }

  // The tensor under a place, the smallest where several are.
  at(position, offset) {
    let best = null;
    for (const { tensor, index } of this.own)
      if (
        tensor[FIRST] <= position &&
        position < tensor[LAST] + 1 &&
        tensor[OFFSET] <= offset &&
        offset < tensor[OFFSET] + tensor[BYTES] &&
        (best === null || tensor[BYTES] < this.memory.tensors[best][BYTES])
      )
        best = index;
    return best;
  }

  point(event) {
    if (!this.scales) return;
    const frame = this.figure.getBoundingClientRect();
    const [px, py] = [event.clientX - frame.left, event.clientY - frame.top];
    this.choose(this.at(this.scales.position(px), this.scales.offset(py)), px, py);
  }

  key(event) {
    const program = this.memory.programs[this.program];
    if (!this.own.length) return;
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key],
      turn = { ArrowUp: 1, ArrowDown: -1 }[event.key];
    if (!step && !turn && event.key !== "Home" && event.key !== "End") return;
    event.preventDefault();
    const peak = program.peak?.position ?? 0;
    this.cursor ??= peak;
    if (step)
      this.cursor = Math.min(
        program.operations - 1,
        Math.max(0, this.cursor + step * (event.shiftKey ? Math.ceil(program.operations / 50) : 1)),
      );
    if (event.key === "Home") this.cursor = 0;
    if (event.key === "End") this.cursor = program.operations - 1;
    const alive = this.own
      .filter(({ tensor }) => tensor[FIRST] <= this.cursor && this.cursor <= tensor[LAST])
      .sort((a, b) => a.tensor[OFFSET] - b.tensor[OFFSET]);
    if (!alive.length) {
      this.choose(null);
      return;
    }
    let i = alive.findIndex(({ index }) => index === this.chosen);
    i =
      i < 0
        ? alive.reduce((best, { tensor }, n) => (tensor[BYTES] > alive[best].tensor[BYTES] ? n : best), 0)
        : Math.min(alive.length - 1, Math.max(0, i + (turn ?? 0)));
    const { tensor, index } = alive[i];
    this.choose(index, this.scales.x(this.cursor), this.scales.y(tensor[OFFSET] + tensor[BYTES] / 2));
    this.cursorLine.setAttribute("x1", this.scales.x(this.cursor));
    this.cursorLine.setAttribute("x2", this.scales.x(this.cursor));
  }

  choose(index, px, py) {
    if (this.chosen !== null) this.rectangles?.get(this.chosen)?.classList.remove("chosen");
    this.chosen = index;
    this.readout.hidden = index === null;
    if (index === null) {
      this.cursorLine?.setAttribute("x1", -9);
      this.cursorLine?.setAttribute("x2", -9);
      return;
    }
    const tensor = this.memory.tensors[index],
      rectangle = this.rectangles.get(index);
    rectangle?.classList.add("chosen");
    px ??= Number(rectangle?.getAttribute("x") ?? 0);
    py ??= Number(rectangle?.getAttribute("y") ?? 0);
    this.readout.replaceChildren(
      make("b", {}, tensor[NAME]),
      facts(
        ["bytes", bytes(tensor[BYTES]), exact(tensor[BYTES])],
        ["offset", exact(tensor[OFFSET])],
        ["alive", `${exact(tensor[FIRST])} – ${exact(tensor[LAST])}`],
        ["phase", tensor[PHASE]],
        tensor[LINE] ? ["line", String(tensor[LINE])] : null,
      ),
    );
    const left = Math.min(Math.max(4, px + 14), this.width - this.readout.offsetWidth - 4);
    this.readout.style.left = `${px + 14 + this.readout.offsetWidth > this.width ? Math.max(4, px - this.readout.offsetWidth - 14) : left}px`;
    this.readout.style.top = `${Math.max(4, py - this.readout.offsetHeight - 10)}px`;
  }
}

// Round numbers of bytes up an axis.
function ticks(top, parts) {
  let step = 2 ** Math.floor(Math.log2(top / parts));
  if (top / step > parts * 1.5) step *= 2;
  return Array.from({ length: Math.floor(top / step) + 1 }, (_, i) => i * step);
}
