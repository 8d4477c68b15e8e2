/** Draws arcs of attention over a row of tokens, as wide and as dark as their weights. */

import { clear, svg } from "../dom.js";

const MOST_HEIGHT = 260;
const LEAST_WEIGHT = 0.02;
const MARGIN = 6;

/** `items` are the tokens' elements; arcs from the one at `at` stand out, ends before `least` are left out. */
export function drawArcs(plot, items, weights, { at, least }) {
  clear(plot);
  if (!items.length) return;
  const centres = items.map((item) => item.offsetLeft + item.offsetWidth / 2);
  const width = items.at(-1).offsetLeft + items.at(-1).offsetWidth + MARGIN;
  const arcs = [];
  for (let from = 0; from < items.length; from += 1) {
    for (let to = least; to < from; to += 1) {
      if (weights[from][to] >= LEAST_WEIGHT) arcs.push({ from, to, weight: weights[from][to], isSingled: from === at });
    }
  }
  arcs.sort((a, b) => a.isSingled - b.isSingled || a.weight - b.weight); // the strong ones on top
  const highest = Math.max(24, ...arcs.map(({ from, to }) => heightOf(centres[from] - centres[to])));
  const height = highest + MARGIN;
  const drawing = svg("svg", { class: "arcs", width, height, viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" });
  for (const arc of arcs) drawing.append(arcPath(arc, centres, height));
  plot.append(drawing);
  shade(items, weights[at] ?? [], at, least);
}

function arcPath({ from, to, weight, isSingled }, centres, height) {
  const [left, right] = [centres[to], centres[from]];
  const radius = (right - left) / 2;
  return svg("path", {
    d: `M ${left} ${height} A ${radius} ${heightOf(right - left)} 0 0 1 ${right} ${height}`,
    class: isSingled ? "arc is-singled" : "arc",
    "stroke-width": (0.6 + weight * 4.4).toFixed(2),
    "stroke-opacity": (isSingled ? 0.35 + weight * 0.65 : 0.08 + weight * 0.6).toFixed(2),
  });
}

const heightOf = (span) => Math.min(MOST_HEIGHT, 8 + span * 0.42);

/** Tint the tokens by the weight that the one looked at gives them. */
function shade(items, row, at, least) {
  items.forEach((item, to) => {
    const weight = to < least || to > at ? 0 : (row[to] ?? 0);
    item.style.setProperty("--weight", `${Math.round(Math.min(1, weight) * 60)}%`);
  });
}
