/** The images that the user pinned: each is a seed and a label, which draw it again. */

import { focusedChild, h } from "../dom.js";

/** @import { SeededImage } from "../types.d.ts" */
/** @import { Shared } from "./generator.js" */

const MAX_PINS = 8;

/** Pins in the order in which they were set; a "change" event follows every change. */
export class Pins extends EventTarget {
  /** @type {SeededImage[]} */
  #pins = [];

  get all() {
    return this.#pins;
  }

  /**
   * The pin of an image, which may look different since; undefined where it is not pinned.
   *
   * @param {SeededImage} image
   */
  find(image) {
    return this.#pins.find((pin) => isSame(pin, image));
  }

  /** @param {SeededImage} image */
  has(image) {
    return this.find(image) !== undefined;
  }

  /**
   * Pin or unpin an image; of too many the oldest goes.
   *
   * @param {SeededImage} image
   */
  toggle(image) {
    this.replace(this.has(image) ? this.#pins.filter((pin) => !isSame(pin, image)) : [...this.#pins, image].slice(-MAX_PINS));
  }

  /**
   * Take the images, drawn with other noise, of what is still pinned.
   *
   * @param {SeededImage[]} images
   */
  redraw(images) {
    this.replace(this.#pins.map((pin) => images.find((image) => isSame(image, pin)) ?? pin));
  }

  /** @param {SeededImage[]} images */
  replace(images) {
    this.#pins = images;
    this.dispatchEvent(new Event("change"));
  }
}

/** @param {SeededImage} one @param {SeededImage} other */
const isSame = (one, other) => one.seed === other.seed && one.label === other.label;

/**
 * A pin's letter: the first four are the corners of the plane.
 *
 * @param {number} index
 */
export const letter = (index) => String.fromCharCode(65 + index);

/**
 * The pinned images in a row, each with its letter, its seed and a button that unpins it.
 *
 * @param {Pick<Shared, "generator" | "pins">} shared
 */
export function pinnedRow({ generator, pins }) {
  const list = h("ul", { class: "pinned", "aria-label": "Pinned images" });

  function render() {
    // A user who unpins by keyboard stays in the row.
    const at = focusedChild(list);
    const none = h("li", { class: "muted" }, "Nothing is pinned. Click a sample to pin it.");
    list.replaceChildren(...(pins.all.length ? pins.all.map(item) : [none]));
    if (at >= 0) (list.children[at] ?? list.lastElementChild)?.querySelector("button")?.focus();
  }

  /** @param {SeededImage} pin @param {number} index */
  function item(pin, index) {
    const label = `Unpin ${letter(index)}, ${generator.nameOf(pin)}`;
    const on = { click: () => pins.toggle(pin) };
    return h(
      "li",
      { class: "pinned-item" },
      h("img", { src: pin.url, alt: "", width: 56, height: 56 }),
      h("span", { class: "pinned-letter" }, letter(index)),
      h("span", { class: "pinned-name" }, generator.labelName(pin.label), h("small", {}, `seed ${pin.seed}`)),
      h("button", { type: "button", class: "pinned-away", "aria-label": label, on }, "×"),
    );
  }

  pins.addEventListener("change", render);
  render();
  return list;
}
