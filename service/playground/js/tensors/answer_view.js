/** The outputs of a network: each as a picture, as its likeliest classes, or as a table, by what it looks like. */

import { bars } from "../charts.js";
import { announce, clear, h } from "../dom.js";
import { pictureOf } from "./pictures.js";
import { isFloat, pictureLayout, typeText } from "./specs.js";

/** @import { Child, OutputTensor } from "../types.d.ts" */

const MAX_ROWS = 20;
const MAX_COLUMNS = 16;
const MAX_CHARTS = 4;
const TOP_K = 5;
const TOLERANCE = 0.005; // a sum of FP16 is off by that much

/** @param {{labels: string[] | null}} options */
export function answerView({ labels }) {
  const timing = h("p", { class: "status muted" }, "Fill in the form and send it, or fill it with numbers to try.");
  const list = h("div", { class: "stack" });

  /** @param {OutputTensor[]} outputs @param {string} words */
  function show(outputs, words) {
    clear(list).append(...outputs.map((output) => outputSection(output, labels)));
    timing.textContent = words;
    announce(`Answer: ${outputs.map(({ name, datatype, shape }) => `${name}, ${typeText(datatype, shape)}`).join("; ")}`);
  }

  return { element: h("div", { class: "stack" }, list, timing), show };
}

/** @param {OutputTensor} output @param {string[] | null} labels */
function outputSection(output, labels) {
  const { name, datatype, shape } = output;
  const view = pictureView(output) ?? classesView(output, labels);
  const table = tableView(output);
  return h(
    "section",
    { class: "output" },
    h("h3", {}, name, " ", h("span", { class: "muted" }, typeText(datatype, shape))),
    view,
    view ? h("details", {}, h("summary", {}, "The numbers"), table) : table,
  );
}

/** @param {OutputTensor} output */
function pictureView({ name, datatype, shape, elements }) {
  const layout = pictureLayout({ name, datatype, shape });
  const picture = layout && elements.length ? pictureOf(elements, layout, datatype) : null;
  if (!layout || !picture) return null;
  const count = shape.length === 4 ? shape[0] : 1;
  const notes = [`${layout.width} × ${layout.height}`, picture.words, count > 1 ? `the first of ${count}` : ""].filter(Boolean).join("; ");
  picture.canvas.setAttribute("aria-label", `${name} as a picture`);
  return h("figure", {}, picture.canvas, h("figcaption", { class: "muted" }, notes));
}

/** Bars of the likeliest, where a vector or each row of a matrix sums up to one. @param {OutputTensor} output @param {string[] | null} labels */
function classesView({ name, datatype, shape, elements }, labels) {
  const width = shape.at(-1) ?? 0;
  if (!isFloat(datatype) || shape.length > 2 || width < 2 || elements.length === 0) return null;
  const rows = rowsOf(elements, width, MAX_CHARTS).map((row) => Array.from(row, Number));
  if (!rows.every(isDistribution)) return null;
  const numRows = elements.length / width;
  const charts = rows.map((row, index) => {
    const label = numRows > 1 ? `${name}, row ${index}` : name;
    return h("div", {}, numRows > 1 ? h("p", { class: "muted" }, `Row ${index}`) : null, bars(likeliest(row, labels), { max: 1, label: `The likeliest: ${label}` }));
  });
  return h("div", { class: "stack" }, charts, rest(numRows, rows.length, "rows"));
}

/** @param {number[]} row */
function isDistribution(row) {
  const sum = row.reduce((total, value) => total + value, 0);
  return row.every((value) => value >= 0 && value <= 1 + TOLERANCE) && Math.abs(sum - 1) < TOLERANCE;
}

/** @param {number[]} row @param {string[] | null} labels */
function likeliest(row, labels) {
  const ranked = row.map((value, index) => ({ value, index })).sort((a, b) => b.value - a.value);
  return ranked.slice(0, TOP_K).map(({ value, index }) => ({
    label: labels?.length === row.length ? labels[index] : `class ${index}`,
    value,
    text: `${(value * 100).toFixed(1)} %`,
  }));
}

/** A bounded table of the last two axes; what is left out is said. @param {OutputTensor} output */
function tableView({ name, datatype, shape, elements }) {
  if (elements.length === 0) return h("p", { class: "muted" }, "No elements.");
  const width = shape.at(-1) ?? 1;
  const height = shape.at(-2) ?? 1;
  const numTables = elements.length / (width * height);
  const shown = rowsOf(elements, width, Math.min(height, MAX_ROWS));
  const columns = Array.from({ length: Math.min(width, MAX_COLUMNS) }, (_, index) => index);
  const head = h("tr", {}, h("td", {}), columns.map((index) => h("th", { scope: "col" }, index)));
  const rows = shown.map((row, index) => h("tr", {}, h("th", { scope: "row" }, index), columns.map((column) => h("td", {}, cellText(row[column], datatype)))));
  return h(
    "div",
    {},
    h("div", { class: "table-scroll", tabindex: "0", role: "region", "aria-label": `${name} as a table` }, h("table", {}, h("thead", {}, head), h("tbody", {}, rows))),
    rest(width, columns.length, "columns"),
    rest(height, shown.length, "rows"),
    rest(numTables, 1, "tables of the last two axes"),
  );
}

/** @param {OutputTensor["elements"]} elements @param {number} width @param {number} count */
function rowsOf(elements, width, count) {
  const length = Math.min(count, Math.floor(elements.length / width));
  return Array.from({ length }, (_, row) => elements.slice(row * width, (row + 1) * width));
}

/** @param {number} total @param {number} shown @param {string} things @returns {Child} */
function rest(total, shown, things) {
  return total > shown ? h("p", { class: "muted" }, `The first ${shown} of ${total.toLocaleString("en")} ${things}.`) : null;
}

/** @param {string | number | boolean} element @param {string} datatype */
function cellText(element, datatype) {
  const isNumber = isFloat(datatype) && typeof element === "number";
  return isNumber && Number.isFinite(element) ? String(Number(element.toPrecision(6))) : String(element);
}
