/** A matrix of weights between two texts as a heat map: a cell is read by pointing at it, or with the arrow keys. */

import { heatCanvas } from "../charts.js";
import { clear, h } from "../dom.js";
import { visible } from "../format.js";

/** @type {Partial<Record<string, [number, number]>>} */
const MOVES = {
  ArrowLeft: [-1, 0],
  ArrowRight: [1, 0],
  ArrowUp: [0, -1],
  ArrowDown: [0, 1],
  Home: [-Infinity, 0],
  End: [Infinity, 0],
};

/** @typedef {{column: number, row: number}} Cell */

/**
 * `onRead` gets each cell that the user goes to; `describedBy` is the id of the map in words.
 *
 * @param {{label: string, describedBy: string, onRead: (cell: Cell) => void}} options
 */
export function heatMap({ label, describedBy, onRead }) {
  const above = h("div", { class: "heat-columns", "aria-hidden": "true" });
  const beside = h("div", { class: "heat-rows", "aria-hidden": "true" });
  const mark = h("span", { class: "heat-mark" });
  const plot = h("div", {
    class: "heat-plot",
    tabindex: 0,
    role: "application",
    "aria-label": label,
    "aria-roledescription": "heat map",
    "aria-describedby": describedBy,
    on: { pointermove: pointed, pointerdown: pointed, keydown: keyed },
  });
  const grid = h("div", { class: "heat" }, h("span", { class: "heat-corner" }), above, beside, plot);
  const element = h("div", { class: "heat-scroll" }, grid);
  let size = { columns: 0, rows: 0 };
  /** @type {Cell} */
  let at = { column: 0, row: 0 };

  /**
   * Show another matrix, `weights[column][row]`, and go to one of its cells.
   *
   * @param {number[][]} weights
   * @param {{columns: string[], rows: string[], first: Cell}} options
   */
  function render(weights, { columns, rows, first }) {
    size = { columns: columns.length, rows: rows.length };
    grid.style.setProperty("--num-columns", String(size.columns));
    grid.style.setProperty("--num-rows", String(size.rows));
    clear(above).append(...columns.map((text) => h("span", {}, visible(text))));
    clear(beside).append(...rows.map((text) => h("span", {}, visible(text))));
    clear(plot).append(heatCanvas(rows.map((_, row) => weights.map((column) => column[row])), "heat-cells"), mark);
    go(first);
    element.scrollLeft = mark.offsetLeft - element.clientWidth / 3;
    element.scrollTop = mark.offsetTop - element.clientHeight / 3;
  }

  /** @param {Cell} cell */
  function go(cell) {
    above.children[at.column]?.classList.remove("is-read");
    beside.children[at.row]?.classList.remove("is-read");
    at = { column: bounded(cell.column, size.columns), row: bounded(cell.row, size.rows) };
    above.children[at.column]?.classList.add("is-read");
    beside.children[at.row]?.classList.add("is-read");
    mark.style.setProperty("--column", String(at.column));
    mark.style.setProperty("--row", String(at.row));
    onRead(at);
  }

  /** @param {PointerEvent} event */
  function pointed(event) {
    const { left, top, width, height } = plot.getBoundingClientRect();
    const column = Math.floor(((event.clientX - left) / width) * size.columns);
    const row = Math.floor(((event.clientY - top) / height) * size.rows);
    if (column !== at.column || row !== at.row) go({ column, row });
  }

  /** @param {KeyboardEvent} event */
  function keyed(event) {
    const move = MOVES[event.key];
    if (!move || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    go({ column: at.column + move[0], row: at.row + move[1] });
    mark.scrollIntoView({ block: "nearest", inline: "nearest" });
  }

  return { element, render };
}

/** @param {number} index @param {number} count */
const bounded = (index, count) => Math.max(0, Math.min(count - 1, index));
