// How numbers are written.

const DECIMAL = [
  [1e18, "E"],
  [1e15, "P"],
  [1e12, "T"],
  [1e9, "G"],
  [1e6, "M"],
  [1e3, "k"],
];
const COUNTS = [
  [1e12, "T"],
  [1e9, "B"],
  [1e6, "M"],
  [1e3, "k"],
];
const BINARY = [
  [2 ** 50, "Pi"],
  [2 ** 40, "Ti"],
  [2 ** 30, "Gi"],
  [2 ** 20, "Mi"],
  [2 ** 10, "Ki"],
];

// Three significant digits, as people say them.
function scaled(value, prefixes) {
  const found = prefixes.find(([size]) => Math.abs(value) >= size * 0.97);
  if (!found) return [Number.isInteger(value) ? String(value) : value.toPrecision(3), ""];
  const part = value / found[0];
  return [part.toFixed(Math.abs(part) >= 99.95 ? 0 : Math.abs(part) >= 9.995 ? 1 : 2), found[1]];
}

const count = (value) => scaled(value, COUNTS).join(" ").trim();
const flops = (value) => {
  const [number, prefix] = scaled(value, DECIMAL);
  return `${number} ${prefix}FLOP`;
};
const bytes = (value) => {
  const [number, prefix] = scaled(value, BINARY);
  return `${number} ${prefix}B`;
};
const exact = (value) => String(value).replace(/\B(?=(\d{3})+$)/g, ",");

function percent(share) {
  if (!Number.isFinite(share)) return "–";
  const value = 100 * share;
  if (value === 0) return "0 %";
  if (Math.abs(value) < 0.05) return "< 0.1 %";
  return `${value.toFixed(Math.abs(value) < 9.95 ? 1 : 0)} %`;
}

// A change from one value to another: "−58 %", "×1.3" would need a reader to know which is which; a sign does not.
function change(before, after) {
  if (before === after) return "same";
  if (!before) return "new";
  const part = after / before - 1;
  const text = percent(Math.abs(part));
  return `${part < 0 ? "−" : "+"}${text}`;
}

const times = (number) => `× ${exact(number)}`;
const plural = (number, word) => `${exact(number)} ${word}${number === 1 ? "" : "s"}`;
