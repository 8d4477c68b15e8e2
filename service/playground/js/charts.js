/** Small charts of SVG and HTML, each with its content in words. They are drawn from values and know no metric. */

import { h, svg } from "./dom.js";

const WIDTH = 320;
const HEIGHT = 96;

/** A short number: three significant digits, thousands as k. */
export function short(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  const size = Math.abs(value);
  if (size >= 1e6) return `${(value / 1e6).toFixed(size >= 1e7 ? 0 : 1)}M`;
  if (size >= 1e4) return `${(value / 1e3).toFixed(size >= 1e5 ? 0 : 1)}k`;
  if (size >= 100 || Number.isInteger(value)) return value.toFixed(0);
  return size >= 10 ? value.toFixed(1).replace(".0", "") : String(Number(value.toPrecision(2)));
}

/** A time in seconds, in the unit that reads best. */
export function seconds(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (value === 0) return "0";
  if (value < 1e-3) return `${Math.round(value * 1e6)} µs`;
  return value < 1 ? `${short(value * 1e3)} ms` : `${short(value)} s`;
}

/** Horizontal bars of rows `{label, value, text}`; the text stands beside the bar. The first is emphasised. */
export function bars(rows, { max, label = "Bars" } = {}) {
  const top = max ?? Math.max(...rows.map((row) => row.value), Number.MIN_VALUE);
  const item = (row, index) =>
    h(
      "li",
      { class: index === 0 ? "bar first" : "bar" },
      h("span", { class: "bar-label" }, row.label),
      h("span", { class: "bar-track", "aria-hidden": "true" }, fill(row.value / top)),
      h("span", { class: "bar-text" }, row.text ?? short(row.value)),
    );
  return h("ol", { class: "bars", "aria-label": label }, rows.map(item));
}

function fill(share) {
  const width = `${Math.min(100, Math.max(0, share * 100)).toFixed(2)}%`;
  return h("span", { class: "bar-fill", style: { width } });
}

/** A line of the latest values without axes; null leaves a gap. `text` stands for it in words, `max` fixes the top. */
export function sparkline(values, { label, width = 120, height = 28, max, text } = {}) {
  const known = values.filter((value) => value !== null);
  const top = max ?? Math.max(...known, Number.MIN_VALUE);
  const x = (index) => (values.length < 2 ? width : (index / (values.length - 1)) * width);
  const y = (value) => height - 1.5 - (Math.min(value, top) / top) * (height - 4);
  const words = text ?? (known.length ? `now ${short(known.at(-1))}, highest ${short(Math.max(...known))}` : "no values yet");
  return svg(
    "svg",
    { class: "sparkline", viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", role: "img", "aria-label": `${label}: ${words}` },
    svg("line", { class: "axis", x1: 0, x2: width, y1: height - 0.5, y2: height - 0.5 }),
    svg("path", { class: "line", d: path(values, x, y), "vector-effect": "non-scaling-stroke" }),
  );
}

function path(values, x, y) {
  let isOpen = false;
  const parts = [];
  values.forEach((value, index) => {
    if (value !== null) parts.push(`${isOpen ? "L" : "M"}${x(index).toFixed(2)} ${y(value).toFixed(2)}`);
    isOpen = value !== null;
  });
  // A value between two gaps is a point: a line of no length, which round caps make visible.
  return parts.length === 1 ? `${parts[0]}h0.01` : parts.join("");
}

/** Columns of buckets `{label, count}`, drawn from zero; the counts stand above. */
export function histogram(buckets, { label, unit = "" } = {}) {
  const top = Math.max(...buckets.map((bucket) => bucket.count), 1);
  const all = buckets.reduce((sum, bucket) => sum + bucket.count, 0);
  const told = buckets.filter((bucket) => bucket.count > 0).map((bucket) => `${bucket.label}: ${short(bucket.count)}`);
  const words = all ? `${told.join(", ")} ${unit}`.trim() : "nothing counted yet";
  const column = (bucket) =>
    h(
      "div",
      { class: bucket.count ? "column" : "column empty" },
      h("span", { class: "column-count" }, bucket.count ? short(bucket.count) : ""),
      h("span", { class: "column-fill", style: { height: `${(bucket.count / top) * 100}%` } }),
      h("span", { class: "column-label" }, bucket.label),
    );
  return h(
    "div",
    { class: "histogram", role: "img", "aria-label": `${label}. ${words}` },
    h("div", { class: "columns", "aria-hidden": "true" }, buckets.map(column)),
  );
}

/**
 * Lines over time with a scale and a legend: series `{name, values}` of the same length, null for a gap; `format(value)`
 * words numbers, `span` the time that is shown.
 */
export function lines(series, { label, format = short, span = "" } = {}) {
  const known = series.flatMap((one) => one.values).filter((value) => value !== null);
  const highest = Math.max(...known, 0);
  const top = ceiling(highest || 1);
  const count = Math.max(...series.map((one) => one.values.length), 2);
  const x = (index) => (index / (count - 1)) * WIDTH;
  const y = (value) => HEIGHT - (value / top) * (HEIGHT - 4);
  const words = series.map((one) => `${one.name} ${format(one.values.findLast((value) => value !== null) ?? null)}`);
  const drawn = series.map((one, index) =>
    svg("path", { class: `line series-${index}`, d: path(one.values, x, y), "vector-effect": "non-scaling-stroke" }),
  );
  const rules = [0, 0.5, 1].map((share) => svg("line", { class: "axis", x1: 0, x2: WIDTH, y1: y(share * top), y2: y(share * top) }));
  const chart = svg(
    "svg",
    { viewBox: `0 -1 ${WIDTH} ${HEIGHT + 2}`, preserveAspectRatio: "none", role: "img", "aria-label": `${label}: ${words.join(", ")}` },
    rules,
    drawn,
  );
  const scale = [1, 0.5, 0].map((share) => h("span", {}, highest ? format(share * top) : share ? "" : "0"));
  return h(
    "div",
    { class: "lines" },
    h("div", { class: "lines-plot" }, h("div", { class: "lines-scale", "aria-hidden": "true" }, scale), chart),
    h("div", { class: "lines-foot", "aria-hidden": "true" }, legend(series, format), h("span", { class: "muted" }, span)),
  );
}

function legend(series, format) {
  const entry = (one, index) =>
    h("li", { class: `key series-${index}` }, one.name, " ", h("b", {}, format(one.values.findLast((value) => value !== null) ?? null)));
  return h("ul", { class: "legend" }, series.map(entry));
}

/** The next number of 1, 2, 5 times a power of ten. */
function ceiling(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value * 0.999) ?? value;
}
