/** Two views of the same scene, one over the other, with an edge between them that is moved by pointer or by key. */

import { clear, h } from "../dom.js";

const MIDDLE = 50;

/** `{element, show(before, after, {width, height})}` of elements: pictures, a video, a canvas. */
export function compare({ before, after }) {
  const under = h("div", { class: "compare-layer compare-after" });
  const over = h("div", { class: "compare-layer compare-before" });
  const input = h("input", {
    type: "range",
    class: "compare-input",
    min: 0,
    max: 100,
    step: 1,
    "aria-label": `${before} on the left, ${after.toLowerCase()} on the right: where the edge is`,
    on: { input: place },
  });
  input.value = MIDDLE;
  const edge = h("div", { class: "compare-edge", "aria-hidden": "true" }, h("span", { class: "compare-grip" }));
  const words = [h("span", { class: "compare-word left" }, before), h("span", { class: "compare-word right" }, after)];
  const element = h("div", { class: "compare", hidden: true }, under, over, ...words, input, edge);
  place();

  function place() {
    element.style.setProperty("--edge", `${input.value}%`);
    input.setAttribute("aria-valuetext", `${input.value} % ${before.toLowerCase()}`);
    words[0].hidden = input.valueAsNumber < 20;
    words[1].hidden = input.valueAsNumber > 80;
  }

  return {
    element,
    show(first, second, { width, height }) {
      // The same element again keeps a video playing.
      if (over.firstChild !== first) clear(over).append(first);
      if (under.firstChild !== second) clear(under).append(second);
      if (width && height) {
        element.style.aspectRatio = `${width} / ${height}`;
        element.style.setProperty("--ratio", String(width / height));
      }
      element.hidden = false;
    },
  };
}
