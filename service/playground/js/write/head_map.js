/** Every head of every layer as a small picture of its weights, to choose one from: a group of radio buttons. */

import { clear, h } from "../dom.js";

/** `onChoose(layer, head)` is told of a choice; both count from 0. */
export function headMap({ onChoose }) {
  const grid = h("div", { class: "heads-grid" });
  const element = h("fieldset", { class: "heads" }, h("legend", {}, "All heads, a row for each layer"), grid);
  let inputs = [];

  function render(attention, layer, head) {
    clear(grid);
    grid.style.gridTemplateColumns = `repeat(${attention[0].length}, minmax(0, 1fr))`;
    inputs = attention.map((heads, row) => heads.map((weights, column) => cell(weights, row, column)));
    choose(layer, head);
  }

  function cell(weights, layer, head) {
    const input = h("input", {
      type: "radio",
      name: "head",
      class: "visually-hidden",
      "aria-label": `Layer ${layer + 1}, head ${head + 1}`,
      on: { change: () => onChoose(layer, head) },
    });
    grid.append(h("label", { class: "head", title: `Layer ${layer + 1}, head ${head + 1}` }, input, picture(weights)));
    return input;
  }

  function choose(layer, head) {
    const input = inputs[layer]?.[head];
    if (input) input.checked = true;
  }

  return { element, render, choose };
}

// Attention to the first token drowns everything else, so it is left out here.
function picture(weights) {
  const size = Math.max(1, weights.length - 1);
  const canvas = h("canvas", { class: "head-picture" });
  canvas.width = size;
  canvas.height = size;
  const paper = canvas.getContext("2d");
  for (let from = 0; from < size; from += 1) {
    for (let to = 0; to <= from; to += 1) {
      const weight = weights[from + 1][to + 1];
      // Brick on both grounds; a root makes small weights visible.
      paper.fillStyle = `rgb(205 90 45 / ${Math.sqrt(weight).toFixed(3)})`;
      paper.fillRect(to, from, 1, 1);
    }
  }
  return canvas;
}
