/** Small charts of SVG, HTML and pixels, each with its content in words. They take values and know no metric. */

import { context2d, h, svg } from "./dom.js";
import { short } from "./format.js";

const WIDTH = 320;
const HEIGHT = 96;

/** @typedef {(number | null)[]} Values */
/** @typedef {{name: string, values: Values}} Series */
/** @typedef {(value: number | null) => string} Format */

/**
 * Horizontal bars, each with its text beside it; `max` is the value of a full one. The first is emphasised.
 *
 * @param {{label: string, value: number, text: string}[]} rows
 * @param {{max: number, label: string}} options
 */
export function bars(rows, { max, label }) {
  const items = rows.map((row, index) =>
    h(
      "li",
      { class: index === 0 ? "bar first" : "bar" },
      h("span", { class: "bar-label" }, row.label),
      h("span", { class: "bar-track", "aria-hidden": "true" }, filled(row.value / max)),
      h("span", { class: "bar-text" }, row.text),
    ),
  );
  return h("ol", { class: "bars", "aria-label": label }, items);
}

/** @param {number} share */
function filled(share) {
  const width = `${Math.min(100, Math.max(0, share * 100)).toFixed(2)}%`;
  return h("span", { class: "bar-fill", style: { width } });
}

/**
 * A line of the latest values without axes; null leaves a gap. `text` says the same in words.
 *
 * @param {Values} values
 * @param {{label: string, text?: string, width?: number, height?: number}} options
 */
export function sparkline(values, { label, text = "no values yet", width = 120, height = 28 }) {
  const top = Math.max(...values.map((value) => value ?? 0), Number.MIN_VALUE);
  const x = (/** @type {number} */ index) => (values.length < 2 ? width : (index / (values.length - 1)) * width);
  const y = (/** @type {number} */ value) => height - 1.5 - (Math.min(value, top) / top) * (height - 4);
  return svg(
    "svg",
    { class: "sparkline", viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", role: "img", "aria-label": `${label}: ${text}` },
    svg("line", { class: "axis", x1: 0, x2: width, y1: height - 0.5, y2: height - 0.5 }),
    svg("path", { class: "line", d: path(values, x, y), "vector-effect": "non-scaling-stroke" }),
  );
}

/** @param {Values} values @param {(index: number) => number} x @param {(value: number) => number} y */
function path(values, x, y) {
  let isOpen = false;
  /** @type {string[]} */
  const parts = [];
  values.forEach((value, index) => {
    if (value !== null) parts.push(`${isOpen ? "L" : "M"}${x(index).toFixed(2)} ${y(value).toFixed(2)}`);
    isOpen = value !== null;
  });
  // A value between two gaps is a point: a line of no length, which round caps make visible.
  return parts.length === 1 ? `${parts[0]}h0.01` : parts.join("");
}

/**
 * Columns from zero, with the counts above.
 *
 * @param {{label: string, count: number}[]} buckets
 * @param {{label: string, unit?: string}} options
 */
export function histogram(buckets, { label, unit = "" }) {
  const top = Math.max(...buckets.map((bucket) => bucket.count), 1);
  const counts = buckets.filter((bucket) => bucket.count > 0).map((bucket) => `${bucket.label}: ${short(bucket.count)}`);
  const words = counts.length ? `${counts.join(", ")} ${unit}`.trim() : "nothing counted yet";
  const columns = buckets.map((bucket) =>
    h(
      "div",
      { class: bucket.count ? "column" : "column empty" },
      h("span", { class: "column-count" }, bucket.count ? short(bucket.count) : ""),
      h("span", { class: "column-fill", style: { height: `${(bucket.count / top) * 100}%` } }),
      h("span", { class: "column-label" }, bucket.label),
    ),
  );
  return h(
    "div",
    { class: "histogram", role: "img", "aria-label": `${label}. ${words}` },
    h("div", { class: "columns", "aria-hidden": "true" }, columns),
  );
}

/**
 * Lines over time with a scale and a legend; the series are of one length, null is a gap. `format` words a value, `span`
 * the time that is shown.
 *
 * @param {Series[]} series
 * @param {{label: string, format?: Format, span?: string}} options
 */
export function lines(series, { label, format = short, span = "" }) {
  const highest = Math.max(...series.flatMap((one) => one.values.map((value) => value ?? 0)), 0);
  const top = ceiling(highest || 1);
  const count = Math.max(...series.map((one) => one.values.length), 2);
  const x = (/** @type {number} */ index) => (index / (count - 1)) * WIDTH;
  const y = (/** @type {number} */ value) => HEIGHT - (value / top) * (HEIGHT - 4);
  const words = series.map((one) => `${one.name} ${format(last(one))}`);
  const paths = series.map((one, index) =>
    svg("path", { class: `line series-${index}`, d: path(one.values, x, y), "vector-effect": "non-scaling-stroke" }),
  );
  const rules = [0, 0.5, 1].map((share) => svg("line", { class: "axis", x1: 0, x2: WIDTH, y1: y(share * top), y2: y(share * top) }));
  const chart = svg(
    "svg",
    { viewBox: `0 -1 ${WIDTH} ${HEIGHT + 2}`, preserveAspectRatio: "none", role: "img", "aria-label": `${label}: ${words.join(", ")}` },
    rules,
    paths,
  );
  const scale = [1, 0.5, 0].map((share) => h("span", {}, highest ? format(share * top) : share ? "" : "0"));
  return h(
    "div",
    { class: "lines" },
    h("div", { class: "lines-plot" }, h("div", { class: "lines-scale", "aria-hidden": "true" }, scale), chart),
    h("div", { class: "lines-foot", "aria-hidden": "true" }, legend(series, format), h("span", { class: "muted" }, span)),
  );
}

/**
 * Weights from 0 to 1 as pixels, a row of them for each row; the style sheet gives the size.
 *
 * @param {number[][]} rows
 * @param {string} kind
 */
export function heatCanvas(rows, kind) {
  const canvas = h("canvas", { class: kind, width: Math.max(1, rows.at(-1)?.length ?? 0), height: Math.max(1, rows.length) });
  const context = context2d(canvas);
  rows.forEach((weights, y) =>
    weights.forEach((weight, x) => {
      // Brick on both grounds; a root makes small weights visible.
      context.fillStyle = `rgb(205 90 45 / ${Math.sqrt(weight).toFixed(3)})`;
      if (weight > 0) context.fillRect(x, y, 1, 1);
    }),
  );
  return canvas;
}

/** @param {Series} series */
const last = ({ values }) => values.findLast((value) => value !== null) ?? null;

/** @param {Series[]} series @param {Format} format */
function legend(series, format) {
  const entries = series.map((one, index) => h("li", { class: `key series-${index}` }, one.name, " ", h("b", {}, format(last(one)))));
  return h("ul", { class: "legend" }, entries);
}

/**
 * The next number of 1, 2, 5 times a power of ten.
 *
 * @param {number} value
 */
function ceiling(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value * 0.999) ?? value;
}
