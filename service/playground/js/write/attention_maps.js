/** Attention weights as drawings: arcs over a row of tokens, and a small map of every head to choose one from. */

import { heatCanvas } from "../charts.js";
import { clear, h, svg } from "../dom.js";

const MAX_HEIGHT = 260;
const MIN_WEIGHT = 0.02;
const MARGIN = 6;

/** @typedef {{from: number, to: number, weight: number, isSelected: boolean}} Arc */

/**
 * Draw arcs as wide and as dark as their weights; those from the selected token stand out, ends before `first` are left out.
 *
 * @param {HTMLElement} plot
 * @param {HTMLElement[]} items the tokens' elements
 * @param {number[][]} weights
 * @param {{selected: number, first: number}} options
 */
export function drawArcs(plot, items, weights, { selected, first }) {
  clear(plot);
  const last = items.at(-1);
  if (!last) return;
  const centres = items.map((item) => item.offsetLeft + item.offsetWidth / 2);
  const width = last.offsetLeft + last.offsetWidth + MARGIN;
  /** @type {Arc[]} */
  const arcs = [];
  for (let from = 0; from < items.length; from += 1) {
    for (let to = first; to < from; to += 1) {
      const weight = weights[from][to];
      if (weight >= MIN_WEIGHT) arcs.push({ from, to, weight, isSelected: from === selected });
    }
  }
  arcs.sort((a, b) => Number(a.isSelected) - Number(b.isSelected) || a.weight - b.weight); // the strong ones on top
  const height = Math.max(24, ...arcs.map(({ from, to }) => heightOf(centres[from] - centres[to]))) + MARGIN;
  const paths = arcs.map((arc) => arcPath(arc, centres, height));
  plot.append(svg("svg", { class: "arcs", width, height, viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" }, paths));
  tint(items, weights[selected] ?? [], selected, first);
}

/** @param {Arc} arc @param {number[]} centres @param {number} height */
function arcPath({ from, to, weight, isSelected }, centres, height) {
  const [left, right] = [centres[to], centres[from]];
  const radius = (right - left) / 2;
  return svg("path", {
    d: `M ${left} ${height} A ${radius} ${heightOf(right - left)} 0 0 1 ${right} ${height}`,
    class: isSelected ? "arc is-selected" : "arc",
    "stroke-width": (0.6 + weight * 4.4).toFixed(2),
    "stroke-opacity": (isSelected ? 0.35 + weight * 0.65 : 0.08 + weight * 0.6).toFixed(2),
  });
}

/** @param {number} span */
const heightOf = (span) => Math.min(MAX_HEIGHT, 8 + span * 0.42);

/**
 * Tint the tokens by the weight that the selected one gives them.
 *
 * @param {HTMLElement[]} items
 * @param {number[]} row
 * @param {number} selected
 * @param {number} first
 */
function tint(items, row, selected, first) {
  items.forEach((item, to) => {
    const weight = to < first || to > selected ? 0 : (row[to] ?? 0);
    item.style.setProperty("--weight", `${Math.round(Math.min(1, weight) * 60)}%`);
  });
}

/**
 * Every head of every layer as a small map of its weights: a group of radio buttons.
 *
 * @param {{onChoose: (layer: number, head: number) => void}} options
 */
export function headMap({ onChoose }) {
  const grid = h("div", { class: "heads-grid" });
  const element = h("fieldset", { class: "heads" }, h("legend", {}, "All heads, a row for each layer"), grid);
  /** @type {HTMLInputElement[][]} */
  let inputs = [];

  /** @param {number[][][][]} attention @param {number} layer @param {number} head */
  function render(attention, layer, head) {
    clear(grid);
    grid.style.gridTemplateColumns = `repeat(${attention[0].length}, minmax(0, 1fr))`;
    inputs = attention.map((heads, row) => heads.map((weights, column) => cell(weights, row, column)));
    choose(layer, head);
  }

  /** @param {number[][]} weights @param {number} layer @param {number} head */
  function cell(weights, layer, head) {
    const name = `Layer ${layer + 1}, head ${head + 1}`;
    const on = { change: () => onChoose(layer, head) };
    const input = h("input", { type: "radio", name: "head", class: "visually-hidden", "aria-label": name, on });
    // Without the first token, to which most of the attention goes.
    const others = weights.slice(1).map((row) => row.slice(1));
    grid.append(h("label", { class: "head", title: name }, input, heatCanvas(others, "head-map")));
    return input;
  }

  /** @param {number} layer @param {number} head */
  function choose(layer, head) {
    const input = inputs[layer]?.[head];
    if (input) input.checked = true;
  }

  return { element, render, choose };
}
