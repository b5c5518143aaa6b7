// The page: its head, its tabs, and who is told of what. One picture, or two beside each other.

function start(data) {
  const paired = Boolean(data.a && data.b);
  document.title = paired ? `${data.a.name} and ${data.b.name}` : `${data.name}, ${formName(data)}`;
  const app = paired ? new Comparison(data) : new Single(data);
  document.body.append(app.root);
  app.begin();
}

function formName(picture) {
  return { cola: "CoLA", "full-rank": "full-rank" }[picture.form] ?? picture.form;
}

// What a picture is of, in small marks.
function chips(picture) {
  const ranks = [...new Set(picture.linears.map((linear) => linear.rank).filter(Boolean))].sort((a, b) => b - a);
  const rank = ranks.length ? ` r ${ranks.length > 2 ? `${ranks[ranks.length - 1]}–${ranks[0]}` : ranks.join(", ")}` : "";
  return make(
    "ul",
    { class: "chips", "aria-label": "Settings" },
    [
      make("li", { class: "form" }, formName(picture) + rank),
      make("li", {}, picture.precision),
      picture.recompute && make("li", {}, `recompute ${picture.recompute}`),
      make("li", {}, `${exact(picture.micro_batch)} × ${exact(picture.sequence_length)} tokens`),
    ].filter(Boolean),
  );
}

// Light, dark, or as the system has it. Kept for the next page where the browser lets files keep anything.
function themeButton() {
  const root = document.documentElement,
    media = window.matchMedia("(prefers-color-scheme: dark)");
  const stored = () => {
    try {
      return localStorage.getItem("colac-theme");
    } catch {
      return null;
    }
  };
  const dark = () => (root.dataset.theme ? root.dataset.theme === "dark" : media.matches);
  if (stored()) root.dataset.theme = stored();
  const button = make("button", {
    type: "button",
    class: "theme",
    onclick: () => {
      root.dataset.theme = dark() ? "light" : "dark";
      try {
        localStorage.setItem("colac-theme", root.dataset.theme);
      } catch {
        /* A page from disk may have no storage. */
      }
      label();
    },
  });
  const label = () => {
    button.textContent = dark() ? "☀" : "☾";
    button.setAttribute("aria-label", dark() ? "Light colours" : "Dark colours");
    button.title = button.getAttribute("aria-label");
  };
  media.addEventListener("change", label);
  label();
  return button;
}

// Tabs with their panels. `panels`: [[name, label, element, draw], …]; a panel is drawn when it is first looked at.
function tabs(panels, opened) {
  const buttons = panels.map(([name, label]) =>
    make(
      "button",
      { type: "button", role: "tab", id: `tab-${name}`, "aria-controls": `panel-${name}`, onclick: () => open(name) },
      label,
    ),
  );
  const bodies = panels.map(([name, , element]) =>
    make(
      "div",
      { role: "tabpanel", id: `panel-${name}`, "aria-labelledby": `tab-${name}`, class: `panel panel-${name}` },
      element,
    ),
  );
  const open = (name) => {
    panels.forEach(([other, , , draw], i) => {
      const on = other === name;
      buttons[i].setAttribute("aria-selected", String(on));
      buttons[i].tabIndex = on ? 0 : -1;
      bodies[i].hidden = !on;
      if (on) draw();
    });
    opened?.(name);
  };
  const list = make(
    "div",
    {
      class: "tabs",
      role: "tablist",
      "aria-label": "Views",
      onkeydown: (event) => {
        const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key],
          at = buttons.indexOf(document.activeElement);
        if (!step || at < 0) return;
        event.preventDefault();
        const next = buttons[(at + step + buttons.length) % buttons.length];
        next.click();
        next.focus();
      },
    },
    buttons,
  );
  return { list, bodies, open };
}

class Single {
  constructor(picture) {
    this.graph = new Graph(picture, { selected: () => this.drawSide(true), stage: () => this.drawAround(), toggled: () => {} });
    this.side = make("aside", { class: "inspector", "aria-label": "About the chosen box", tabindex: "-1" });
    this.facts = make("div", { class: "about" });
    this.tools = make("div", { class: "tools" });
    this.steps = make("div", { class: "steps" });
    const lead = (thing, note) => {
      this.tabs.open("graph");
      this.graph.goTo(thing, note);
      this.drawAround();
    };
    const leadToPath = (path) => {
      const found = this.graph.stage.boxes.find(
        (box) =>
          box.shown === box &&
          meets(
            box.span,
            path.split(".").map((part) => turns(part) ?? part),
          ),
      );
      if (found) lead(found, foldNote(found, path.split(".")));
    };
    const memory = new Memory(picture),
      costs = new Costs(this.graph.stages, (stage, box) => {
        this.graph.setStage(stage.name);
        lead(box);
      }),
      linears = new Linears(picture, leadToPath);
    this.tabs = tabs([
      [
        "graph",
        "Graph",
        make(
          "div",
          { class: "graph-view" },
          this.steps,
          this.facts,
          this.tools,
          make("div", { class: "split" }, this.graph.root, this.side),
        ),
        () => {
          this.graph.draw();
          this.drawAround();
        },
      ],
      ["memory", "Memory", memory.root, () => memory.draw()],
      ["costs", "Costs", costs.root, () => costs.draw()],
      ["linears", "Linears", linears.root, () => linears.draw()],
    ]);
    this.root = make(
      "div",
      { class: "app" },
      make(
        "header",
        { class: "top" },
        make("div", { class: "name" }, make("h1", {}, picture.name), chips(picture)),
        this.tabs.list,
        searchField(() => this.graph.stage, lead),
        themeButton(),
      ),
      make("main", {}, this.tabs.bodies),
    );
  }

  begin() {
    this.graph.selected = this.graph.stage.model;
    this.tabs.open("graph");
    this.graph.settleZoom();
    this.graph.canvas.fitReadable();
  }

  drawAround() {
    if (!this.steps.firstChild) this.steps.append(stageSteps(this.graph, (name) => this.graph.setStage(name)));
    for (const button of this.steps.querySelectorAll("button")) {
      const on = button.dataset.choice === `stages:${this.graph.stage.name}`;
      button.setAttribute("aria-checked", String(on));
      button.tabIndex = on ? 0 : -1;
    }
    this.facts.replaceChildren(stageFacts(this.graph));
    // The button that was pressed is made anew: the focus goes to the one in its place.
    const held = [...this.tools.querySelectorAll("button")].indexOf(document.activeElement);
    this.tools.replaceChildren(
      toolbar([this.graph], () => {
        this.graph.draw();
        this.drawAround();
      }),
    );
    if (held >= 0) this.tools.querySelectorAll("button")[held]?.focus();
    this.drawSide(false);
  }

  // On a narrow screen the inspector is a sheet at the bottom that can be lowered.
  handle() {
    const button = make("button", {
      type: "button",
      class: "handle",
      "aria-label": "More or less about the chosen box",
      onclick: () => {
        button.setAttribute("aria-expanded", String(this.side.classList.toggle("raised")));
      },
    });
    button.setAttribute("aria-expanded", String(this.side.classList.contains("raised")));
    return button;
  }

  drawSide(chosen) {
    if (chosen) this.side.classList.add("raised");
    this.side.replaceChildren(
      this.handle(),
      inspect(this.graph, this.graph.selected, (thing) => {
        this.graph.goTo(thing);
        this.drawAround();
      }),
    );
    this.side.scrollTop = 0;
  }
}
