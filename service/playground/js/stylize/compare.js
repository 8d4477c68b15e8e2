/** Two views of the same scene, one over the other, with an edge between them that pointer and keys move. */

import { clear, h } from "../dom.js";

/** @import { Size } from "../types.d.ts" */

const MIDDLE = 50;

/** @param {{before: string, after: string}} labels */
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
  input.valueAsNumber = MIDDLE;
  const edge = h("div", { class: "compare-edge", "aria-hidden": "true" }, h("span", { class: "compare-grip" }));
  const left = h("span", { class: "compare-word left" }, before);
  const right = h("span", { class: "compare-word right" }, after);
  const full = h("button", { type: "button", class: "button small compare-full" }, "Full screen");
  const element = h("div", { class: "compare", hidden: true }, under, over, left, right, input, edge, document.fullscreenEnabled ? full : null);
  element.addEventListener("fullscreenchange", () => {
    full.textContent = document.fullscreenElement === element ? "Leave full screen" : "Full screen";
  });
  full.addEventListener("click", () => {
    if (document.fullscreenElement) document.exitFullscreen();
    else element.requestFullscreen();
  });
  place();

  function place() {
    element.style.setProperty("--edge", `${input.value}%`);
    input.setAttribute("aria-valuetext", `${input.value} % ${before.toLowerCase()}`);
    left.hidden = input.valueAsNumber < 20;
    right.hidden = input.valueAsNumber > 80;
  }

  /**
   * Show two elements: images, a video, a canvas.
   *
   * @param {HTMLElement} first
   * @param {HTMLElement} second
   * @param {Size} size
   */
  function show(first, second, { width, height }) {
    // The same element again keeps a video playing.
    if (over.firstChild !== first) clear(over).append(first);
    if (under.firstChild !== second) clear(under).append(second);
    if (width && height) {
      element.style.aspectRatio = `${width} / ${height}`;
      element.style.setProperty("--ratio", String(width / height));
    }
    element.hidden = false;
  }

  return { element, show };
}

/**
 * Loads files as images before they are shown, and revokes the addresses of the ones before.
 *
 * @param {{signal: AbortSignal}} options
 */
export function imageLoader({ signal }) {
  /** @type {string[]} */
  let shown = [];
  signal.addEventListener("abort", () => revoke(shown));

  /**
   * Two loaded `<img>`, unless the signal `newer` aborts.
   *
   * @param {Blob} before
   * @param {Blob} after
   * @param {AbortSignal} newer
   */
  async function load(before, after, newer) {
    const fresh = [before, after].map((blob) => URL.createObjectURL(blob));
    const images = [h("img", { src: fresh[0], alt: "The photograph" }), h("img", { src: fresh[1], alt: "The painting" })];
    try {
      await Promise.all(images.map((image) => image.decode()));
      newer.throwIfAborted();
    } catch (error) {
      revoke(fresh);
      throw error;
    }
    revoke(shown);
    shown = fresh;
    return images;
  }

  return { load };
}

/** @param {string[]} addresses */
function revoke(addresses) {
  for (const address of addresses) URL.revokeObjectURL(address);
}
