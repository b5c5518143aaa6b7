// Finds boxes and nodes by path. A number in what is asked meets every fold that speaks for that turn.

const MOST_FOUND = 12;

// [{thing, title, note}], the best first.
function find(stage, asked) {
  const wanted = asked.trim().toLowerCase();
  if (!wanted) return [];
  const parts = wanted.split("."),
    found = [];
  const consider = (thing, path, label, extra) => {
    const at = partsWithin(path, parts);
    const loose =
      label.toLowerCase().includes(wanted) ||
      spanText(path).toLowerCase().includes(wanted) ||
      extra.toLowerCase().includes(wanted);
    if (at === null && !loose) return;
    // Whole paths first, then ends of paths, then what lies deeper.
    const exactly = at && at.whole && at.end === path.length;
    found.push({ thing, at, score: (exactly ? 0 : at?.whole ? 1 : at ? 2 : 3) * 100 + path.length + (thing.operands ? 50 : 0) });
  };
  for (const box of stage.boxes) if (box.shown === box && box.path !== "") consider(box, box.span, box.label, box.kind);
  for (const node of stage.nodes)
    if (!QUIET.has(node.kind)) {
      const path = node.path
        .split(".")
        .map((part, i) => (Array.isArray(node.home.span[i]) && turns(part) ? node.home.span[i] : part));
      consider(node, path, node.label, node.op);
    }
  found.sort((a, b) => a.score - b.score || b.thing.times - a.thing.times);
  return found.slice(0, MOST_FOUND).map(({ thing }) => ({
    thing,
    title: thing.operands ? nodeName(thing) : boxTitle(thing),
    note: foldNote(thing, parts),
    kind: thing.operands ? `${thing.op}, ${thing.phase}` : thing.kind,
  }));
}

// Where the parts asked for stand in a path, one after the other; the last may be the beginning of a name.
function partsWithin(path, parts) {
  for (let start = 0; start + parts.length <= path.length; start++) {
    let whole = true;
    const fits = parts.every((part, i) => {
      const here = path[start + i],
        asked = turns(part);
      if (Array.isArray(here)) return asked ? partMeets(here, asked) : part === "*";
      const name = here.toLowerCase();
      if (name === part || part === "*") return true;
      whole = false;
      return (
        (i === parts.length - 1 && part !== "" && name.startsWith(part)) ||
        (i === 0 && part !== "" && parts.length === 1 && name.includes(part))
      );
    });
    if (fits) return { start, end: start + parts.length, whole };
  }
  return null;
}

// Says of a folded turn in which fold it stands.
function foldNote(thing, parts) {
  const spans = (thing.operands ? thing.home : thing).span;
  const turn = parts.map(turns).find(Boolean);
  const fold = spans.find((part) => Array.isArray(part) && part[0] !== part[1]);
  return turn && fold && turn[0] === turn[1] && partMeets(fold, turn)
    ? `turn ${turn[0]} is one of ${fold[1] - fold[0] + 1} that are identical, ${fold[0]} to ${fold[1]}`
    : "";
}

// The field with its list. `stage()`: where to look; `go(thing, note)`.
function searchField(stage, go) {
  let results = [],
    at = 0;
  const list = make("ul", { id: "found", role: "listbox", "aria-label": "Found", hidden: true });
  const field = make("input", {
    id: "search",
    type: "search",
    placeholder: "Search a path",
    autocomplete: "off",
    spellcheck: "false",
    role: "combobox",
    "aria-label": "Search a path, as layers.7.self_attn.v_proj",
    "aria-controls": "found",
    "aria-expanded": "false",
    "aria-autocomplete": "list",
  });
  const close = () => {
    list.hidden = true;
    field.setAttribute("aria-expanded", "false");
    field.removeAttribute("aria-activedescendant");
  };
  const pick = (i) => {
    const result = results[i];
    if (result) {
      close();
      go(result.thing, result.note);
    }
  };
  const show = () => {
    results = find(stage(), field.value);
    at = 0;
    list.replaceChildren(
      ...(results.length
        ? results.map((result, i) =>
            make(
              "li",
              {
                id: `found-${i}`,
                role: "option",
                "aria-selected": String(i === 0),
                onmousedown: (event) => {
                  event.preventDefault();
                  pick(i);
                },
              },
              make("b", {}, result.title),
              make("span", {}, result.kind),
              result.note && make("em", {}, result.note),
            ),
          )
        : [make("li", { class: "none" }, "Nothing in this stage has such a path.")]),
    );
    list.hidden = !field.value.trim();
    field.setAttribute("aria-expanded", String(!list.hidden));
  };
  const move = (step) => {
    if (!results.length) return;
    at = (at + step + results.length) % results.length;
    [...list.children].forEach((item, i) => item.setAttribute("aria-selected", String(i === at)));
    list.children[at].scrollIntoView({ block: "nearest" });
    field.setAttribute("aria-activedescendant", `found-${at}`);
  };
  field.addEventListener("input", show);
  field.addEventListener("focus", () => {
    if (field.value.trim()) show();
  });
  field.addEventListener("blur", close);
  field.addEventListener("keydown", (event) => {
    const action = {
      ArrowDown: () => move(1),
      ArrowUp: () => move(-1),
      Enter: () => pick(at),
      Escape: () => {
        field.value = "";
        close();
        field.blur();
      },
    }[event.key];
    if (!action) return;
    event.preventDefault();
    action();
  });
  document.addEventListener("keydown", (event) => {
    if (
      event.key !== "/" ||
      event.ctrlKey ||
      event.metaKey ||
      event.altKey ||
      /^(INPUT|TEXTAREA|SELECT)$/.test(document.activeElement?.tagName)
    )
      return;
    event.preventDefault();
    field.focus();
    field.select();
  });
  return make("div", { class: "search", role: "search" }, field, make("kbd", { "aria-hidden": "true" }, "/"), list);
}
