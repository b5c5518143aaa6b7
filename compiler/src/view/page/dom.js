// Elements. Everything that comes from a picture is put into the page as text, never as markup: names may contain any
// characters.

// An element with attributes and children. `on…` are listeners, `style` is an object of properties (custom ones too),
// attributes that are null, undefined or false are left out.
function make(tag, attributes, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

function makeSvg(tag, attributes, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [key, text] of Object.entries(value)) element.style.setProperty(key, text);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

// The head of a table. Every row is a list of cells: texts, pairs of a text and its class, or cells that are made already.
function tableHead(...rows) {
  const cell = (column) => {
    if (column instanceof Element) return column;
    const [text, kind] = Array.isArray(column) ? column : [column];
    return make("th", { scope: "col", class: kind || null }, text);
  };
  return make(
    "thead",
    {},
    rows.map((columns) => make("tr", {}, columns.map(cell))),
  );
}

// Buttons of which one is pressed, moved through with the arrow keys. `choices`: [[value, label, help], …].
function choice(name, label, choices, chosen, choose) {
  const buttons = choices.map(([value, text, help]) =>
    make(
      "button",
      {
        type: "button",
        role: "radio",
        "aria-checked": String(value === chosen),
        tabindex: value === chosen ? "0" : "-1",
        "data-choice": `${name}:${value}`,
        title: help,
        onclick: () => pick(value),
      },
      text,
    ),
  );
  const pick = (value) => {
    choices.forEach(([other], i) => {
      buttons[i].setAttribute("aria-checked", String(other === value));
      buttons[i].tabIndex = other === value ? 0 : -1;
    });
    choose(value);
  };
  return make(
    "div",
    {
      class: `choice ${name}`,
      role: "radiogroup",
      "aria-label": label,
      onkeydown: (event) => {
        const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
        const at = buttons.indexOf(document.activeElement);
        if (!step || at < 0) return;
        event.preventDefault();
        const next = (at + step + buttons.length) % buttons.length;
        buttons[next].focus();
        pick(choices[next][0]);
      },
    },
    buttons,
  );
}

// The width of a text on the page in one of the fonts that the layout needs to know.
const measureText = (() => {
  const known = new Map();
  let context = null;
  return (text, font) => {
    const key = `${font}\n${text}`;
    if (!known.has(key)) {
      context ??= document.createElement("canvas").getContext("2d");
      context.font = font;
      known.set(key, context.measureText(text).width);
    }
    return known.get(key);
  };
})();
