/** A square that one drags over: it tells the place of the finger, from 0 to 1 each way, and carries a picture there. */

import { h } from "../dom.js";

const STEP = 0.04;
const LEAP = 0.2;
const MAP_SIDE = 280;

/** `onMove(x, y)` is told of every move, by pointer or by arrow keys. */
export function plane({ label, describedBy, onMove }) {
  const map = h("canvas", { class: "plane-map", width: MAP_SIDE, height: MAP_SIDE });
  const picture = h("img", { class: "plane-picture", alt: "", width: 84, height: 84, draggable: false, hidden: true });
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
    picture,
  );
  let at = { x: 0.3, y: 0.25 };

  function go(x, y) {
    at = { x: clamp(x), y: clamp(y) };
    element.style.setProperty("--x", at.x);
    element.style.setProperty("--y", at.y);
    onMove(at.x, at.y);
  }

  function follow(event) {
    const { left, top, width, height } = element.getBoundingClientRect();
    go((event.clientX - left) / width, (event.clientY - top) / height);
  }

  function pressed(event) {
    element.setPointerCapture(event.pointerId);
    element.classList.add("is-held");
    follow(event);
  }

  function dragged(event) {
    if (element.hasPointerCapture(event.pointerId)) follow(event);
  }

  function released(event) {
    if (element.hasPointerCapture(event.pointerId)) element.releasePointerCapture(event.pointerId);
    element.classList.remove("is-held");
  }

  function keyed(event) {
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const move = moves[event.key];
    if (!move || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    const step = event.shiftKey ? LEAP : STEP;
    go(at.x + move[0] * step, at.y + move[1] * step);
  }

  return {
    element,
    go,
    at: () => at,
    show(url, alt) {
      picture.src = url;
      picture.alt = alt;
      picture.hidden = false;
    },
    /** Paint pictures, a row after the other, as the ground of the plane. */
    async paint(urls, numColumns) {
      const pictures = await Promise.all(urls.map(loaded));
      const paper = map.getContext("2d");
      const side = MAP_SIDE / numColumns;
      paper.imageSmoothingEnabled = false;
      pictures.forEach((one, index) => {
        const [row, column] = [Math.floor(index / numColumns), index % numColumns];
        paper.drawImage(one, Math.round(column * side), Math.round(row * side), Math.ceil(side), Math.ceil(side));
      });
    },
  };
}

const clamp = (value) => Math.max(0, Math.min(1, value));

async function loaded(url) {
  const image = new Image();
  image.src = url;
  await image.decode();
  return image;
}
