"use strict";
// Draws the runs in the element `data`. Everything up to `start` is plain arithmetic, which tests call without a page.

const COLORS = 6;
const AXES = {
  steps: { name: "steps", label: "steps" },
  tokens: { name: "tokens", label: "training tokens" },
  flops: { name: "FLOPs", label: "training compute" },
  seconds: { name: "time", label: "training time" },
};
const PANELS = [
  { key: "loss", title: "Loss", unit: "nats per token", height: 330, smooth: true, scale: "asked" },
  { key: "learning_rate", title: "Learning rate", unit: "", height: 90, zero: true },
  { key: "gradient_norm", title: "Gradient norm", unit: "before clipping", height: 110, zero: true, smooth: true, scale: "needed" },
  { key: "tokens_per_second", title: "Speed", unit: "tokens a second", height: 110, zero: true, smooth: true },
];

// The moving average of curve.rs: neighbours at a distance of d have the weight (1 - w)^d, in both directions.
function smoothed(values, span) {
  if (span <= 1) return values;
  const weight = 2 / (span + 1);
  const pass = (ahead) => {
    const sums = new Array(values.length);
    let sum = 0, weights = 0;
    for (let n = 0; n < values.length; n++) {
      const i = ahead ? values.length - 1 - n : n;
      if (values[i] !== null) {
        sum += weight * (values[i] - sum);
        weights += weight * (1 - weights);
      }
      sums[i] = [sum, weights];
    }
    return sums;
  };
  const back = pass(false), ahead = pass(true);
  return values.map((value, i) => value === null ? null
    : (back[i][0] + ahead[i][0] - weight * value) / (back[i][1] + ahead[i][1] - weight));
}

// At most four points for each column of one pixel: first, lowest, highest, last. `null` parts the line.
function thinned(points) {
  const pieces = [];
  let piece = [], column = [];
  const flush = () => {
    if (!column.length) return;
    let low = 0, high = 0;
    column.forEach((p, i) => { if (p[1] < column[low][1]) low = i; if (p[1] >= column[high][1]) high = i; });
    const kept = [...new Set([0, low, high, column.length - 1])].sort((a, b) => a - b);
    for (const i of kept) piece.push(column[i]);
    column = [];
  };
  for (const point of points) {
    if (point === null) {
      flush();
      if (piece.length) pieces.push(piece);
      piece = [];
      continue;
    }
    if (column.length && Math.floor(column[0][0]) !== Math.floor(point[0])) flush();
    column.push(point);
  }
  flush();
  if (piece.length) pieces.push(piece);
  return pieces;
}

function linearTicks(low, high, count) {
  const rough = (high - low) / Math.max(count, 1);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = ([1, 2, 5].find((f) => f * power >= rough * 0.999) ?? 10) * power;
  const first = Math.ceil(low / step - 1e-9), last = Math.floor(high / step + 1e-9);
  if (!(last - first < 1000)) return [low, high];
  return Array.from({ length: last - first + 1 }, (_, i) => (first + i) * step || 0);
}

function logTicks(low, high, count) {
  const first = Math.floor(Math.log10(low)), last = Math.ceil(Math.log10(high));
  const collect = (factors, every) => {
    const ticks = [];
    for (let power = first; power <= last; power += every)
      for (const factor of factors) ticks.push(factor * 10 ** power);
    return ticks.filter((tick) => tick >= low * 0.999999 && tick <= high * 1.000001);
  };
  for (const factors of [[1, 2, 3, 4, 5, 6, 7, 8, 9], [1, 2, 5], [1]]) {
    const ticks = collect(factors, 1);
    if (ticks.length <= count + 1) return ticks;
  }
  return collect([1], Math.ceil(Math.max(last - first, 1) / Math.max(count, 1)));
}

function makeScale(low, high, isLog, from, to) {
  if (isLog) {
    high = Math.max(high, 1e-300);
    if (low <= 0) low = high / 1000;
    if (low === high) [low, high] = [low / 2, high * 2];
  } else if (low === high) {
    const reach = low === 0 ? 1 : Math.abs(low) / 2;
    [low, high] = [low - reach, high + reach];
  }
  return {
    low, high, isLog,
    place(value) {
      if (value === null || isLog && value <= 0) return null;
      const share = isLog ? (Math.log(value) - Math.log(low)) / (Math.log(high) - Math.log(low)) : (value - low) / (high - low);
      return from + share * (to - from);
    },
    value(place) {
      const share = (place - from) / (to - from);
      return isLog ? Math.exp(Math.log(low) + share * (Math.log(high) - Math.log(low))) : low + share * (high - low);
    },
    ticks(count) {
      const ticks = isLog ? logTicks(low, high, count) : [];
      return ticks.length >= 2 ? ticks : linearTicks(low, high, count);
    },
  };
}

const PREFIXES = [[1e18, "E"], [1e15, "P"], [1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]];

// How the ticks of an axis are written: alike on a linear axis, each as short as may be on a logarithmic one.
function tickWriter(ticks, isLog) {
  const largest = Math.max(0, ...ticks.map(Math.abs));
  const digits = "⁰¹²³⁴⁵⁶⁷⁸⁹";
  const scientific = (value) => {
    const power = Math.floor(Math.log10(Math.abs(value)));
    const mantissa = (value / 10 ** power).toFixed(1).replace(/\.0$/, "");
    const raised = String(power).replace(/./g, (c) => c === "-" ? "⁻" : digits[c]);
    return mantissa === "1" ? `10${raised}` : `${mantissa}×10${raised}`;
  };
  const plain = (value, of) => {
    const [divisor, suffix] = PREFIXES.find(([d]) => of >= d && of >= 1e4) ?? [1, ""];
    return [value / divisor, suffix];
  };
  const places = (value) => {
    for (let n = 0; n < 6; n++) {
      const scaled = value * 10 ** n;
      if (Math.abs(scaled - Math.round(scaled)) < 1e-6 * Math.max(Math.abs(scaled), 1e-3)) return n;
    }
    return 6;
  };
  if (isLog) return (value) => {
    if (Math.abs(value) < 1e-3) return scientific(value);
    const [scaled, suffix] = plain(value, Math.abs(value));
    return scaled.toFixed(places(scaled)) + suffix;
  };
  if (largest > 0 && largest < 1e-3) return (value) => value === 0 ? "0" : scientific(value);
  const decimals = Math.max(0, ...ticks.map((tick) => places(plain(tick, largest)[0])));
  return (value) => {
    if (value === 0) return "0";
    const [scaled, suffix] = plain(value, largest);
    return scaled.toFixed(decimals) + suffix;
  };
}

// The unit of an axis: what values are divided by, and its name.
function axisUnit(axis, largest) {
  if (axis === "flops") {
    const [divisor, prefix] = [[1e24, "Y"], [1e21, "Z"], ...PREFIXES].find(([d]) => largest >= d) ?? [1, ""];
    return [divisor, `${prefix}FLOP`];
  }
  if (axis === "seconds") {
    if (largest >= 172800) return [86400, "days"];
    if (largest >= 7200) return [3600, "h"];
    return largest >= 120 ? [60, "min"] : [1, "s"];
  }
  return [1, ""];
}

// Labels at least `gap` apart, as near as may be to where they are wanted.
function spread(wanted, gap, top, bottom) {
  const order = wanted.map((_, i) => i).sort((a, b) => wanted[a] - wanted[b]);
  const blocks = [];
  for (const i of order) {
    let block = { centre: Math.min(Math.max(wanted[i], top), bottom), members: [i] };
    while (blocks.length) {
      const last = blocks[blocks.length - 1];
      const count = last.members.length + block.members.length;
      if (block.centre - last.centre >= gap * count / 2) break;
      const mean = (last.centre * last.members.length + block.centre * block.members.length) / count;
      const half = gap * (count - 1) / 2;
      const centre = Math.min(Math.max(mean, top + half), Math.max(bottom - half, top + half));
      block = { centre, members: [...last.members, ...block.members] };
      blocks.pop();
    }
    blocks.push(block);
  }
  const places = [];
  for (const { centre, members } of blocks)
    members.forEach((i, n) => { places[i] = centre + gap * (n - (members.length - 1) / 2); });
  return places;
}

// The columns of a run that stand for an x axis; `null` if the run cannot be drawn along it.
function columns(run, axis) {
  if (axis === "flops") {
    if (run.flops_per_step === null) return null;
    const flops = (steps) => steps.map((step) => step * run.flops_per_step);
    return [flops(run.steps), flops(run.evaluation_steps)];
  }
  const name = { steps: "steps", tokens: "tokens", seconds: "seconds" }[axis];
  return [run[name], run[`evaluation_${name}`]];
}

// The index of the entry nearest to a value in a column that never falls.
function nearest(column, value) {
  let low = 0, high = column.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (column[middle] < value) low = middle + 1; else high = middle;
  }
  return low > 0 && value - column[low - 1] < column[low] - value ? low - 1 : low;
}

// Slider places 0 to 100 are spans from 1 to a quarter of the longest run, evenly by their logarithm.
const mostSpan = (longest) => Math.max(2, longest / 4);
const spanOf = (place, longest) => Math.max(1, Math.round(mostSpan(longest) ** (place / 100)));
const placeOf = (span, longest) => Math.round(100 * Math.log(Math.max(span, 1)) / Math.log(mostSpan(longest)));

function path(pieces) {
  let data = "";
  for (const piece of pieces) {
    piece.forEach(([x, y], i) => { data += `${i ? "L" : "M"}${+x.toFixed(1)} ${+y.toFixed(1)}`; });
    if (piece.length === 1) data += "h0";
  }
  return data;
}

function start(document) {
  const data = JSON.parse(document.getElementById("data").textContent);
  const element = (id) => document.getElementById(id);
  const figure = element("figure"), readout = element("readout");
  const groups = [...new Set(data.runs.map((run) => run.group))];
  const longest = Math.max(1, ...data.runs.map((run) => run.steps.length));
  const state = { axis: data.x, logX: data.log_x, logY: data.log_y, span: data.span, hidden: new Set(), at: null };
  const color = (run) => groups.indexOf(run.group) % COLORS;
  const dashes = (run) => Math.min(Math.floor(groups.indexOf(run.group) / COLORS), 2);
  const LEFT = 68, GAP = 40;
  let drawn = null;

  const svgElement = (name, attributes, parent, text) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    if (text !== undefined) node.textContent = text;
    parent.append(node);
    return node;
  };
  const visible = () => data.runs.filter((run) => !state.hidden.has(run.name) && columns(run, state.axis));

  function draw() {
    const width = Math.max(480, Math.round(figure.clientWidth || 1100));
    const runs = visible();
    const shownGroups = groups.filter((group) => runs.some((run) => run.group === group));
    const labelWidth = shownGroups.length > 1 ? Math.min(190, 34 + 7.6 * Math.max(...shownGroups.map((g) => g.length))) : 24;
    const right = width - labelWidth;
    const height = PANELS.reduce((sum, panel) => sum + panel.height + GAP, 34);
    const root = svgElement("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "Loss, learning rate, gradient norm and speed" }, figure);
    const x = xScale(runs, right);
    const line = (kind, x1, y1, x2, y2) => svgElement("line", { class: kind, x1, y1, x2, y2 }, root);
    const text = (kind, xAt, yAt, anchor, content) => svgElement("text", { class: kind, x: xAt, y: yAt, "text-anchor": anchor }, root, content);
    const panels = [];
    let top = GAP - 14;
    for (const panel of PANELS) {
      const bottom = top + panel.height;
      const y = yScale(panel, runs, top, bottom);
      const note = [panel.unit, y && y.isLog ? "logarithmic" : ""].filter(Boolean).join(", ");
      const heading = text("panel", LEFT, top - 10, "start", panel.title);
      svgElement("tspan", { dx: 12, style: "font-weight:400;fill:var(--soft)" }, heading, note);
      for (const tick of x.ticks(7)) line("grid", x.place(tick), top, x.place(tick), bottom);
      if (y) {
        const ticks = y.ticks(Math.max(4, Math.round(panel.height / 40))), write = tickWriter(ticks, y.isLog);
        for (const tick of ticks) {
          line("grid", LEFT, y.place(tick), right, y.place(tick));
          text("number", LEFT - 8, y.place(tick) + 4, "end", write(tick));
        }
      } else text("", (LEFT + right) / 2, (top + bottom) / 2, "middle", "nothing was logged");
      line("axis", LEFT, bottom, right, bottom);
      if (y) drawPanel(panel, runs, x, y, bottom, root);
      if (panel.key === "loss" && y) {
        drawKey(right, top - 10, runs, root);
        if (shownGroups.length > 1) drawNames(shownGroups, runs, x, y, top, bottom, right, root);
      }
      panels.push({ panel, y, top, bottom });
      top = bottom + GAP;
    }
    const bottom = top - GAP, ticks = x.ticks(7), write = tickWriter(ticks, x.isLog);
    for (const tick of ticks) text("number", x.place(tick), bottom + 18, "middle", write(tick));
    const unit = x.unit ? ` (${x.unit})` : "";
    text("", (LEFT + right) / 2, bottom + 38, "middle", AXES[state.axis].label + unit + (x.isLog ? ", logarithmic" : ""));
    const cursor = svgElement("line", { class: "cursor", x1: 0, x2: 0, y1: GAP - 14, y2: bottom, visibility: "hidden" }, root);
    while (figure.firstChild !== root) figure.firstChild.remove();
    drawn = { root, x, right, width, cursor };
    point();
  }

  function xScale(runs, right) {
    let largest = 0, smallest = Infinity;
    for (const run of runs) {
      const column = columns(run, state.axis)[0];
      if (column.length) largest = Math.max(largest, column[column.length - 1]);
      for (const value of column) if (value > 0) { smallest = Math.min(smallest, value); break; }
    }
    const [divisor, unit] = axisUnit(state.axis, largest);
    const low = state.logX ? Math.min(smallest, largest) / divisor : 0;
    const scale = makeScale(low, largest / divisor, state.logX, LEFT, right);
    return { ...scale, divisor, unit };
  }

  function yScale(panel, runs, top, bottom) {
    const values = [];
    for (const run of runs) {
      for (const value of run[panel.key]) if (value !== null) values.push(value);
      if (panel.key === "loss") for (const value of run.evaluation_loss) if (value !== null) values.push(value);
    }
    if (!values.length) return null;
    values.sort((a, b) => a - b);
    let low = values[0], high = values[values.length - 1];
    const median = values[Math.floor(values.length / 2)];
    const wanted = panel.scale && state.logY || panel.scale === "needed" && high > 20 * median;
    if (wanted && low > 0) {
      const reach = Math.max(Math.exp((Math.log(high) - Math.log(low)) * 0.04), 1.000001);
      return makeScale(low / reach, Math.min(high * reach, Number.MAX_VALUE), true, bottom, top);
    }
    if (panel.zero) low = Math.min(low, 0);
    const reach = (high - low) * 0.05;
    return makeScale(panel.zero ? low : low - reach, high + reach, false, bottom, top);
  }

  function drawPanel(panel, runs, x, y, bottom, root) {
    const curve = (kind, run, column, values) => {
      const points = column.map((value, i) => {
        const px = x.place(value / x.divisor), py = y.place(values[i]);
        return px === null || py === null ? null : [px, py];
      });
      const d = path(thinned(points));
      if (d) svgElement("path", { class: `${kind} s${color(run)} d${dashes(run)}`, d }, root);
    };
    if (panel.smooth && state.span > 1) for (const run of runs) curve("raw", run, columns(run, state.axis)[0], run[panel.key]);
    for (const run of runs) {
      const column = columns(run, state.axis)[0];
      let marks = "";
      run[panel.key].forEach((value, i) => {
        const px = value === null ? x.place(column[i] / x.divisor) : null;
        if (px !== null) marks += `M${px.toFixed(1)} ${bottom}v-7`;
      });
      if (marks) svgElement("path", { class: `lost s${color(run)}`, d: marks }, root);
      curve("line", run, column, panel.smooth ? smoothed(run[panel.key], state.span) : run[panel.key]);
    }
    if (panel.key !== "loss") return;
    for (const run of runs) {
      const points = evaluationPoints(run, x, y);
      if (points.length > 1) svgElement("path", { class: `held s${color(run)}`, d: path(thinned(points)) }, root);
      const every = Math.max(1, Math.ceil(points.length / Math.max(1, Math.floor((drawn ? drawn.width : 1000) / 12))));
      points.forEach(([cx, cy], i) => {
        if ((points.length - 1 - i) % every === 0) svgElement("circle", { class: `dot f${color(run)}`, cx, cy, r: 3.5 }, root);
      });
    }
  }

  function evaluationPoints(run, x, y) {
    const column = columns(run, state.axis)[1];
    const points = column.map((value, i) => [x.place(value / x.divisor), y.place(run.evaluation_loss[i])]);
    return points.filter(([px, py]) => px !== null && py !== null);
  }

  function drawKey(right, y, runs, root) {
    const key = svgElement("text", { x: right, y, "text-anchor": "end" }, root);
    svgElement("tspan", { class: "key" , style: "stroke:none;font-weight:700" }, key, "— ");
    svgElement("tspan", {}, key, state.span > 1 ? `training, smoothed over ${state.span} updates` : "training");
    if (runs.some((run) => run.evaluation_loss.length)) {
      svgElement("tspan", { dx: 14 }, key, "● ");
      svgElement("tspan", {}, key, "validation");
    }
  }

  const lastValue = (values) => values.reduce((last, value) => value === null ? last : value, null);

  function drawNames(shown, runs, x, y, top, bottom, right, root) {
    const ends = [];
    for (const group of shown) {
      const members = runs.filter((run) => run.group === group);
      let places = members.map((run) => evaluationPoints(run, x, y).pop()).filter(Boolean);
      if (!places.length) places = members.flatMap((run) => {
        const values = smoothed(run.loss, state.span), i = values.findLastIndex((value) => value !== null);
        return i < 0 ? [] : [[x.place(columns(run, state.axis)[0][i] / x.divisor), y.place(values[i])]];
      });
      if (!places.length) continue;
      const losses = members.map((run) => lastValue(run.evaluation_loss)).filter((loss) => loss !== null);
      const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
      ends.push({ run: members[0], group, x: Math.max(...places.map((p) => p[0])), y: mean(places.map((p) => p[1])), loss: losses.length ? mean(losses) : null });
    }
    const places = spread(ends.map((end) => end.y), 30, top + 8, bottom - 8);
    ends.forEach((end, i) => {
      const at = right + 20, c = color(end.run);
      svgElement("path", { class: `lead s${c}`, d: `M${end.x + 6} ${end.y}L${at - 5} ${places[i]}` }, root);
      const short = end.group.length > 22 ? `${end.group.slice(0, 10)}…${end.group.slice(-11)}` : end.group;
      svgElement("text", { class: `name t${c}`, x: at, y: places[i] + 1 }, root, short);
      if (end.loss !== null) svgElement("text", { class: "number", x: at, y: places[i] + 15 }, root, end.loss.toFixed(3));
    });
  }

  // The readout at `state.at`, a value on the x axis in its own unit.
  function point(pageX, pageY) {
    if (!drawn) return;
    const { x, cursor } = drawn;
    const place = state.at === null ? null : x.place(state.at / x.divisor);
    const runs = visible().filter((run) => run.steps.length);
    if (place === null || !runs.length) {
      readout.hidden = true;
      cursor.setAttribute("visibility", "hidden");
      return;
    }
    cursor.setAttribute("visibility", "visible");
    cursor.setAttribute("x1", place);
    cursor.setAttribute("x2", place);
    const number = (value, digits) => value === null ? "–" : digits === undefined ? String(+value.toPrecision(3)) : value.toFixed(digits);
    const table = document.createElement("table");
    const head = table.createTHead().insertRow();
    for (const name of ["", "step", "loss", "validation", "rate", "norm", "tokens/s"]) {
      const cell = document.createElement("th");
      cell.textContent = name;
      head.append(cell);
    }
    const body = table.createTBody();
    for (const run of runs) {
      const i = nearest(columns(run, state.axis)[0], state.at);
      const before = run.evaluation_steps.findLastIndex((step) => step <= run.steps[i]);
      const row = body.insertRow();
      const name = row.insertCell(), swatch = document.createElement("span");
      swatch.className = "swatch";
      swatch.style.borderColor = `var(--c${color(run)})`;
      name.append(swatch, ` ${run.name}`);
      for (const value of [
        run.steps[i].toLocaleString("en"), number(run.loss[i], 4), before < 0 ? "–" : number(run.evaluation_loss[before], 4),
        number(run.learning_rate[i]), number(run.gradient_norm[i], 3),
        run.tokens_per_second[i] === null ? "–" : Math.round(run.tokens_per_second[i]).toLocaleString("en"),
      ]) row.insertCell().textContent = value;
    }
    const caption = table.createCaption(), scaled = state.at / x.divisor;
    caption.textContent = `${AXES[state.axis].label}: ${x.unit ? `${+scaled.toPrecision(4)} ${x.unit}` : Math.round(scaled).toLocaleString("en")}`;
    readout.replaceChildren(table);
    readout.hidden = false;
    const box = drawn.root.getBoundingClientRect();
    const left = pageX ?? box.left + place * box.width / drawn.width, topAt = pageY ?? box.top + 60;
    const size = readout.getBoundingClientRect(), view = document.documentElement;
    const over = left + 18 + size.width > view.clientWidth;
    readout.style.left = `${Math.max(4, over ? left - 18 - size.width : left + 18)}px`;
    readout.style.top = `${Math.max(4, Math.min(topAt + 14, view.clientHeight - size.height - 4))}px`;
  }

  function bounds() {
    const ends = visible().map((run) => columns(run, state.axis)[0]).filter((column) => column.length);
    return [0, Math.max(0, ...ends.map((column) => column[column.length - 1]))];
  }

  figure.addEventListener("pointermove", (event) => {
    const box = drawn.root.getBoundingClientRect();
    const place = (event.clientX - box.left) * drawn.width / box.width;
    state.at = place < LEFT - 8 || place > drawn.right + 8 ? null : drawn.x.value(Math.min(Math.max(place, LEFT), drawn.right)) * drawn.x.divisor;
    point(event.clientX, event.clientY);
  });
  figure.addEventListener("pointerleave", () => { state.at = null; point(); });
  figure.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10 }[event.key];
    if (event.key === "Escape") state.at = null;
    else if (step) {
      const [low, high] = bounds();
      state.at = Math.min(Math.max((state.at ?? high / 2) + step * (high - low) / 200, low), high);
      event.preventDefault();
    } else return;
    point();
  });

  for (const [axis, { name }] of Object.entries(AXES)) {
    if (!data.runs.some((run) => columns(run, axis))) continue;
    const label = document.createElement("label"), input = document.createElement("input");
    Object.assign(input, { type: "radio", name: "axis", value: axis, checked: axis === state.axis });
    input.addEventListener("change", () => { state.axis = axis; state.at = null; draw(); });
    label.append(input, name);
    element("axis").append(label);
  }
  for (const [id, key] of [["log-x", "logX"], ["log-y", "logY"]]) {
    element(id).checked = state[key];
    element(id).addEventListener("change", (event) => { state[key] = event.target.checked; draw(); });
  }
  const slider = element("span");
  const say = () => { element("span-text").textContent = state.span > 1 ? `${state.span.toLocaleString("en")} updates` : "none"; };
  slider.value = placeOf(state.span, longest);
  slider.addEventListener("input", () => { state.span = spanOf(+slider.value, longest); say(); draw(); });
  say();
  for (const run of data.runs) {
    const button = document.createElement("button"), swatch = document.createElement("span");
    button.type = "button";
    button.setAttribute("aria-pressed", "true");
    swatch.className = "swatch";
    swatch.style.borderColor = `var(--c${color(run)})`;
    if (dashes(run)) swatch.style.borderTopStyle = dashes(run) === 1 ? "dashed" : "dotted";
    button.append(swatch, run.name);
    button.addEventListener("click", () => {
      state.hidden.has(run.name) ? state.hidden.delete(run.name) : state.hidden.add(run.name);
      button.setAttribute("aria-pressed", String(!state.hidden.has(run.name)));
      draw();
    });
    element("legend").append(button);
  }
  element("controls").addEventListener("submit", (event) => event.preventDefault());
  element("controls").hidden = false;
  draw();
  if (typeof ResizeObserver !== "undefined") {
    let last = figure.clientWidth;
    new ResizeObserver(() => { if (figure.clientWidth !== last) { last = figure.clientWidth; draw(); } }).observe(figure);
  }
}

if (typeof module !== "undefined") module.exports = { smoothed, thinned, makeScale, tickWriter, axisUnit, spread, columns, nearest, spanOf, placeOf };
else start(document);
