/** A square to drag over: it reports the place of the pointer, from 0 to 1 each way, and carries an image there. */

import { context2d, h } from "../dom.js";

const STEP = 0.04;
const LEAP = 0.2;
const MAP_SIDE = 280;
const START = { x: 0.3, y: 0.25 };
/** @type {Partial<Record<string, [number, number]>>} */
const MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/**
 * `onMove` follows every move, by pointer or by arrow keys.
 *
 * @param {{label: string, describedBy: string, onMove: () => void}} options
 */
export function plane({ label, describedBy, onMove }) {
  const map = h("canvas", { class: "plane-map", width: MAP_SIDE, height: MAP_SIDE });
  const image = h("img", { class: "plane-image", alt: "", width: 84, height: 84, draggable: false, hidden: true });
  const corners = ["A", "B", "C", "D"].map((name) => h("span", { class: `plane-corner corner-${name}` }, name));
  const element = h(
    "div",
    {
      class: "plane",
      tabindex: 0,
      role: "application",
      "aria-label": label,
      "aria-roledescription": "plane to walk on",
      "aria-describedby": describedBy,
      on: { pointerdown: pressed, pointermove: dragged, pointerup: released, pointercancel: released, keydown: keyed },
    },
    map,
    corners,
    image,
  );
  let at = START;

  /** @param {number} x @param {number} y */
  function go(x, y) {
    at = { x: clamp(x), y: clamp(y) };
    element.style.setProperty("--x", String(at.x));
    element.style.setProperty("--y", String(at.y));
    onMove();
  }

  /** @param {PointerEvent} event */
  function follow(event) {
    const { left, top, width, height } = element.getBoundingClientRect();
    go((event.clientX - left) / width, (event.clientY - top) / height);
  }

  /** @param {PointerEvent} event */
  function pressed(event) {
    element.setPointerCapture(event.pointerId);
    element.classList.add("is-held");
    follow(event);
  }

  /** @param {PointerEvent} event */
  function dragged(event) {
    if (element.hasPointerCapture(event.pointerId)) follow(event);
  }

  /** @param {PointerEvent} event */
  function released(event) {
    if (element.hasPointerCapture(event.pointerId)) element.releasePointerCapture(event.pointerId);
    element.classList.remove("is-held");
  }

  /** @param {KeyboardEvent} event */
  function keyed(event) {
    const move = MOVES[event.key];
    if (!move || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    const step = event.shiftKey ? LEAP : STEP;
    go(at.x + move[0] * step, at.y + move[1] * step);
  }

  /** @param {string} url @param {string} alt */
  function show(url, alt) {
    image.src = url;
    image.alt = alt;
    image.hidden = false;
  }

  /**
   * Paint images, row by row, as the ground of the plane.
   *
   * @param {string[]} urls
   * @param {number} numColumns
   */
  async function paint(urls, numColumns) {
    const images = await Promise.all(urls.map(loaded));
    const context = context2d(map);
    const side = MAP_SIDE / numColumns;
    context.imageSmoothingEnabled = false;
    images.forEach((one, index) => {
      const [row, column] = [Math.floor(index / numColumns), index % numColumns];
      context.drawImage(one, Math.round(column * side), Math.round(row * side), Math.ceil(side), Math.ceil(side));
    });
  }

  return { element, go, at: () => at, show, paint };
}

/** @param {number} value */
const clamp = (value) => Math.max(0, Math.min(1, value));

/** @param {string} url */
async function loaded(url) {
  const image = new Image();
  image.src = url;
  await image.decode();
  return image;
}
