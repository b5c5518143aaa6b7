// Places items in layers so that values flow one way: ranks by the longest path, order by medians, horizontal places by
// least squares. Knows items by their sizes and edges by their ends; nothing of models.

const GAP_X = 20,
  GAP_Y = 30,
  LANE = 14,
  ROW_WIDTH = 700;

// `items`: [{w, h, inX(value), outX(value)}] in program order; inX and outX give where inside an item a value arrives and
// leaves, or null. `edges`: [{from, to, value}], item numbers, or "in" and "out" for values that cross the border.
// Returns {w, h, places: [{x, y}], routes: [{from, to, value, points}], inX, outX}; flow runs from top to bottom.
function layered(items, edges) {
  const graph = ranked(items, edges);
  // Where a link meets a cell, from its left edge.
  graph.attach = (cell, value, side) => (cell.item === undefined ? cell.w / 2 : (items[cell.item][side](value) ?? cell.w / 2));
  const layers = orderedLayers(graph);
  placeAcross(layers, graph);
  straighten(layers, graph);
  return routed(items, edges, graph, layers);
}

// Ranks, and for each value one chain of waypoints from its source through every rank up to its last reader.
function ranked(items, edges) {
  const place = topological(items, edges);
  const ahead = (edge) => edge.from === "in" || edge.to === "out" || place[edge.from] < place[edge.to];
  const forward = edges.filter((edge) => edge.from !== "in" && edge.to !== "out" && ahead(edge));
  const rank = items.map(() => 0);
  const after = items.map(() => []),
    fed = items.map(() => false);
  for (const edge of forward) after[edge.from].push(edge.to);
  for (const edge of edges) if (edge.to !== "out" && ahead(edge)) fed[edge.to] = true;
  const inOrder = items.map((_, i) => i).sort((a, b) => place[a] - place[b]);
  for (const i of inOrder) for (const to of after[i]) rank[to] = Math.max(rank[to], rank[i] + 1);
  // What needs nothing stands just before the first that needs it.
  for (const i of inOrder.reverse())
    if (!fed[i] && after[i].length) rank[i] = Math.max(rank[i], Math.min(...after[i].map((to) => rank[to])) - 1);
  spreadApart(items, edges, rank);
  const last = items.length ? Math.max(...rank) : -1;

  const cells = items.map((item, i) => ({ item: i, w: item.w, rank: rank[i] + 1, up: [], down: [] }));
  const all = [...cells],
    chains = new Map(),
    ports = { in: new Map(), out: new Map() };
  const port = (side, value) => {
    if (!ports[side].has(value)) {
      const cell = { port: side, value, w: 0, rank: side === "in" ? 0 : last + 2, up: [], down: [] };
      ports[side].set(value, cell);
      all.push(cell);
    }
    return ports[side].get(value);
  };
  const join = (above, below, value) => {
    if (above.down.some((link) => link.cell === below && link.value === value)) return;
    above.down.push({ cell: below, value });
    below.up.push({ cell: above, value });
  };
  const sorted = [...edges].sort(
    (a, b) => (a.to === "out" ? Infinity : rank[a.to]) - (b.to === "out" ? Infinity : rank[b.to]) || 0,
  );
  for (const edge of sorted) {
    if (!ahead(edge)) continue;
    const source = edge.from === "in" ? port("in", edge.value) : cells[edge.from];
    const target = edge.to === "out" ? port("out", edge.value) : cells[edge.to];
    const key = `${edge.from}:${edge.value}`;
    if (!chains.has(key)) chains.set(key, [source]);
    const chain = chains.get(key);
    while (chain[chain.length - 1].rank < target.rank - 1) {
      const before = chain[chain.length - 1];
      const way = { way: true, value: edge.value, w: 2, rank: before.rank + 1, up: [], down: [] };
      all.push(way);
      join(before, way, edge.value);
      chain.push(way);
    }
    join(chain[target.rank - 1 - source.rank], target, edge.value);
  }
  for (const chain of chains.values()) for (const way of chain.slice(1)) way.long = chain.length > 2;
  return { cells, all, chains, ports, ahead, ranks: last + 3 };
}

// The place of each item in an order in which values flow forwards; where boxes feed each other, the earlier comes first.
function topological(items, edges) {
  const waits = items.map(() => new Set()),
    place = items.map(() => 0),
    left = new Set(items.map((_, i) => i));
  for (const edge of edges) if (edge.from !== "in" && edge.to !== "out") waits[edge.to].add(edge.from);
  for (let next = 0; left.size; next++) {
    const ready = [...left].find((i) => ![...waits[i]].some((from) => left.has(from))) ?? Math.min(...left);
    place[ready] = next;
    left.delete(ready);
  }
  return place;
}

// Parts that have nothing to do with each other stand beside each other as long as there is room, then below.
function spreadApart(items, edges, rank) {
  const group = items.map((_, i) => i),
    byValue = new Map();
  const root = (i) => {
    while (group[i] !== i) i = group[i];
    return i;
  };
  const unite = (a, b) => {
    const [x, y] = [root(a), root(b)];
    group[Math.max(x, y)] = Math.min(x, y);
  };
  for (const edge of edges) {
    const ends = [edge.from, edge.to].filter((end) => typeof end === "number");
    if (ends.length === 2) unite(...ends);
    if (byValue.has(edge.value)) unite(byValue.get(edge.value), ends[0]);
    else byValue.set(edge.value, ends[0]);
  }
  let shift = 0,
    next = 0,
    width = 0;
  for (const first of new Set(items.map((_, i) => root(i)))) {
    const members = items.map((_, i) => i).filter((i) => root(i) === first);
    const wide = Math.max(
      ...[...new Set(members.map((i) => rank[i]))].map((r) =>
        members.filter((i) => rank[i] === r).reduce((sum, i) => sum + items[i].w + GAP_X, 0),
      ),
    );
    if (width && width + wide > ROW_WIDTH) {
      shift = next;
      width = 0;
    }
    width += wide;
    const lowest = Math.min(...members.map((i) => rank[i]));
    for (const i of members) {
      rank[i] += shift - lowest;
      next = Math.max(next, rank[i] + 1);
    }
  }
}

// The order within each layer: swept up and down by the mean place of neighbours, the one with fewest crossings kept.
function orderedLayers(graph) {
  let layers = Array.from({ length: graph.ranks }, () => []);
  graph.all.forEach((cell, i) => {
    cell.first = cell.item ?? i;
    layers[cell.rank].push(cell);
  });
  for (const layer of layers) number(layer);
  let best = layers.map((layer) => [...layer]),
    fewest = crossings(layers);
  for (let sweep = 0; sweep < 16 && fewest > 0; sweep++) {
    const side = sweep % 2 ? "down" : "up";
    const order = layers.map((_, i) => (sweep % 2 ? layers.length - 1 - i : i));
    for (const r of order) {
      for (const cell of layers[r]) {
        const near = cell[side];
        cell.wish = near.length ? near.reduce((sum, { cell: other }) => sum + other.at, 0) / near.length : cell.at;
      }
      layers[r].sort((a, b) => a.wish - b.wish || a.first - b.first);
      number(layers[r]);
    }
    const now = crossings(layers);
    if (now < fewest) {
      fewest = now;
      best = layers.map((layer) => [...layer]);
    }
  }
  for (const layer of best) number(layer);
  return best;
}

function number(layer) {
  layer.forEach((cell, i) => {
    cell.at = layer.length === 1 ? 0.5 : i / (layer.length - 1);
    cell.index = i;
  });
}

function crossings(layers) {
  let sum = 0;
  for (const layer of layers) {
    const links = layer.flatMap((cell) => cell.down.map((link) => [cell.index, link.cell.index]));
    for (let i = 0; i < links.length; i++)
      for (let j = i + 1; j < links.length; j++) if ((links[i][0] - links[j][0]) * (links[i][1] - links[j][1]) < 0) sum++;
  }
  return sum;
}

function placeAcross(layers, graph) {
  for (const layer of layers) {
    let x = 0;
    for (const cell of layer) {
      cell.x = x;
      x += cell.w + GAP_X;
    }
    for (const cell of layer) cell.x -= x / 2;
  }
  const pull = (cell, sides) => {
    let sum = 0,
      weights = 0;
    for (const side of sides)
      for (const { cell: other, value } of cell[side]) {
        const [mine, theirs] = side === "up" ? ["inX", "outX"] : ["outX", "inX"];
        // A chain is straight above all; where edges part or meet they bend. A long edge bends at its ends.
        const [above, below] = side === "up" ? [other, cell] : [cell, other];
        const share = 1 / Math.max(above.down.length, below.up.length);
        const weight = cell.way && other.way ? 6 : cell.long || other.long ? 0.01 : (cell.way || other.way ? 5 : 10) * share;
        sum += weight * (other.x + graph.attach(other, value, theirs) - graph.attach(cell, value, mine));
        weights += weight;
      }
    return weights ? [sum / weights, weights] : [cell.x, 0.05];
  };
  for (let sweep = 0; sweep < 48; sweep++) {
    const sides = sweep >= 20 ? ["up", "down"] : sweep % 2 ? ["down"] : ["up"];
    const order = sweep % 2 ? [...layers].reverse() : layers;
    for (const layer of order)
      settle(
        layer,
        layer.map((cell) => pull(cell, sides)),
      );
  }
}

// What stands almost in line stands in line, where there is room for it.
function straighten(layers, graph) {
  const fits = (layer, i, x) => {
    const [before, after, cell] = [layer[i - 1], layer[i + 1], layer[i]];
    return (
      (!before || before.x + before.w + (before.way || cell.way ? LANE : GAP_X) <= x + 0.5) &&
      (!after || x + cell.w + (after.way || cell.way ? LANE : GAP_X) <= after.x + 0.5)
    );
  };
  const snap = (layer, side) =>
    layer.forEach((cell, i) => {
      const [mine, theirs, back] = side === "up" ? ["inX", "outX", "down"] : ["outX", "inX", "up"];
      const links = cell.long
        ? cell[side].filter(({ cell: other }) => other.way)
        : cell[side].filter(({ cell: other }) => !other.long);
      if (!links.length) return;
      const wish = (link) => link.cell.x + graph.attach(link.cell, link.value, theirs) - graph.attach(cell, link.value, mine);
      const x = links.reduce((sum, link) => sum + wish(link), 0) / links.length;
      // A cell that only these lead to is theirs; others are moved a little at most.
      const own = links.every((link) => link.cell[back].length === 1);
      if (Math.abs(x - cell.x) < (own ? 120 : 28) && fits(layer, i, x)) cell.x = x;
    });
  for (const layer of layers.slice(1)) snap(layer, "up");
  snap(layers[0], "down");
}

// Least squares with the order kept and nothing overlapping: neighbours that would meet move together.
function settle(layer, wishes) {
  const offsets = [];
  let offset = 0;
  layer.forEach((cell, i) => {
    offsets.push(offset);
    const next = layer[i + 1];
    offset += cell.w + (next && (cell.way || next.way) ? LANE : GAP_X);
  });
  const blocks = [];
  wishes.forEach(([wish, weight], i) => {
    blocks.push({ sum: (wish - offsets[i]) * weight, weight, count: 1 });
    while (blocks.length > 1) {
      const [before, last] = blocks.slice(-2);
      if (before.sum / before.weight <= last.sum / last.weight) break;
      blocks.splice(-2, 2, { sum: before.sum + last.sum, weight: before.weight + last.weight, count: before.count + last.count });
    }
  });
  let i = 0;
  for (const block of blocks) for (let n = 0; n < block.count; n++, i++) layer[i].x = block.sum / block.weight + offsets[i];
}

function routed(items, edges, graph, layers) {
  let left = Infinity,
    right = -Infinity;
  for (const cell of graph.all) {
    left = Math.min(left, cell.x);
    right = Math.max(right, cell.x + cell.w);
  }
  if (!graph.all.length) left = right = 0;
  // Ranks of ports have no height: their gap to the border is that of the box.
  const tops = [],
    bottoms = [];
  let y = 0;
  layers.forEach((layer, r) => {
    const height = Math.max(0, ...layer.map((cell) => (cell.item === undefined ? 0 : items[cell.item].h)));
    tops.push(y);
    bottoms.push(y + height);
    const inner = r > 0 && r < layers.length - 2;
    y += height + (inner ? GAP_Y + 2 * Math.max(0, layer.length - 4) : r === 0 ? 14 : 0);
  });
  const h = (bottoms[layers.length - 2] ?? 0) + 14;
  tops[layers.length - 1] = bottoms[layers.length - 1] = h;
  const places = graph.cells.map((cell, i) => ({
    x: cell.x - left,
    y: (tops[cell.rank] + bottoms[cell.rank] - items[i].h) / 2,
  }));
  const routes = [],
    arrivals = new Map();
  for (const edge of edges) {
    const source = edge.from === "in" ? graph.ports.in.get(edge.value) : graph.cells[edge.from];
    const target = edge.to === "out" ? graph.ports.out.get(edge.value) : graph.cells[edge.to];
    if (!source || !target) continue;
    const start = [
      source.x - left + graph.attach(source, edge.value, "outX"),
      edge.from === "in" ? 0 : places[edge.from].y + items[edge.from].h,
    ];
    const end = [target.x - left + graph.attach(target, edge.value, "inX"), edge.to === "out" ? h : places[edge.to].y];
    const route = { ...edge, target, points: [start] };
    const chain = graph.chains.get(`${edge.from}:${edge.value}`);
    if (!graph.ahead(edge)) {
      // Against the order of the program (two boxes that feed each other): around on the right.
      const side = right - left + 8;
      route.points.push([side, start[1]], [side, end[1]], end);
      route.back = true;
    } else {
      route.points.push([start[0], bottoms[source.rank]]);
      for (const way of chain.slice(1, target.rank - source.rank)) {
        const x = way.x - left + way.w / 2;
        route.points.push([x, tops[way.rank]], [x, bottoms[way.rank]]);
      }
      route.points.push([end[0], tops[target.rank]], end);
      if (edge.to !== "out" && items[edge.to].inX(edge.value) === null) {
        if (!arrivals.has(edge.to)) arrivals.set(edge.to, []);
        arrivals.get(edge.to).push(route);
      }
    }
    routes.push(route);
  }
  // Values that arrive at the same item stand side by side, in the order in which they come.
  for (const [item, list] of arrivals) {
    const from = (route) => route.points[route.points.length - 3][0];
    list.sort((a, b) => from(a) - from(b));
    const gap = Math.min(22, (items[item].w - 24) / list.length);
    // One that comes straight from above arrives in the middle, the others beside it.
    const middle = places[item].x + items[item].w / 2,
      above = list.filter((route) => Math.abs(from(route) - middle) < 12),
      straight = list.indexOf(above[0]);
    const centre =
      above.length === 1 && Math.max(straight, list.length - 1 - straight) * gap < items[item].w / 2 - 8
        ? straight
        : (list.length - 1) / 2;
    list.forEach((route, i) => {
      const shift = gap * (i - centre);
      for (const n of [1, 2])
        route.points[route.points.length - n] = [
          route.points[route.points.length - n][0] + shift,
          route.points[route.points.length - n][1],
        ];
    });
  }
  const across = (ports) => new Map([...ports].map(([value, cell]) => [value, cell.x - left]));
  return { w: right - left, h, places, routes, inX: across(graph.ports.in), outX: across(graph.ports.out) };
}

// A polyline of vertical pieces, joined by curves.
function curve(points) {
  const round = (value) => Math.round(value * 10) / 10;
  let path = `M${round(points[0][0])} ${round(points[0][1])}`;
  for (let i = 1; i < points.length; i++) {
    const [x0, y0] = points[i - 1],
      [x1, y1] = points[i];
    if (Math.abs(x0 - x1) < 0.5) path += `L${round(x1)} ${round(y1)}`;
    else {
      const middle = (y0 + y1) / 2;
      path += `C${round(x0)} ${round(middle)} ${round(x1)} ${round(middle)} ${round(x1)} ${round(y1)}`;
    }
  }
  return path;
}
