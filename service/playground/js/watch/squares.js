/** One square for each request of a burst, shaded by the size of the batch in which it was computed. */

import { announce, clear, h } from "../dom.js";

const LEVELS = [
  { words: "alone", most: 1 },
  { words: "2", most: 2 },
  { words: "3–4", most: 4 },
  { words: "5–8", most: 8 },
  { words: "more", most: Infinity },
];

/** `{element, begin(count), mark(index, outcome), tell(text)}`. */
export function squares() {
  const grid = h("div", { class: "squares", role: "img", "aria-label": "No request sent yet" });
  const legend = h(
    "ul",
    { class: "squares-legend muted" },
    h("li", {}, "Rows in the batch:"),
    LEVELS.map(({ words }, level) => h("li", {}, h("span", { class: `square level-${level}`, "aria-hidden": "true" }), words)),
    h("li", {}, h("span", { class: "square done", "aria-hidden": "true" }), "a text, in many"),
    h("li", {}, h("span", { class: "square failed", "aria-hidden": "true" }), "refused"),
  );
  return {
    element: h("div", { class: "stack" }, grid, legend),
    begin(count) {
      clear(grid).append(...Array.from({ length: count }, () => h("span", { class: "square" })));
      grid.setAttribute("aria-label", `${count} requests being sent`);
    },
    mark(index, { batchSize, error }) {
      const square = grid.children[index];
      if (error) square.classList.add("failed");
      // A text is computed in many batches, of which none is its own.
      else square.classList.add(batchSize ? `level-${LEVELS.findIndex(({ most }) => batchSize <= most)}` : "done");
    },
    tell(text) {
      grid.setAttribute("aria-label", text);
      announce(text);
    },
  };
}
