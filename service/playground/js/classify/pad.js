/** A sheet to draw on with a pen, a finger or a mouse: dark ink on white paper. It knows no model. */

import { button, slider } from "../controls.js";
import { context2d, h } from "../dom.js";
import { blobOf } from "../image_files.js";

const SIDE = 280;
const PAPER = "#fff";
const INK = "#111";

/** @typedef {{width: number, points: [number, number][]}} Stroke */

/**
 * The sheet; `onChange` is called for every bit of a stroke, `onSettle` when the pen is lifted and after Undo and Clear.
 *
 * @param {{label: string, onChange: () => void, onSettle: () => void}} options
 */
export function pad({ label, onChange, onSettle }) {
  /** @type {Stroke[]} */
  let strokes = [];
  /** @type {Stroke | null} */
  let stroke = null;
  const canvas = h("canvas", { class: "pad-sheet", width: SIDE, height: SIDE, role: "img", "aria-label": label });
  const context = context2d(canvas, { willReadFrequently: true });
  const hint = h("p", { class: "pad-hint", "aria-hidden": "true" }, label);
  const brush = slider({ label: "Brush", min: 6, max: 44, step: 1, value: 22, format: (value) => `${value} px` });
  const undoButton = button("Undo", () => restart(strokes.slice(0, -1)), { kind: "small" });
  const clearButton = button("Clear", () => restart([]), { kind: "small" });
  canvas.addEventListener("pointerdown", begin);
  canvas.addEventListener("pointermove", extend);
  canvas.addEventListener("pointerup", finish);
  canvas.addEventListener("pointercancel", finish);
  redraw();

  /** @param {PointerEvent} event */
  function begin(event) {
    if (!event.isPrimary || event.button !== 0) return;
    event.preventDefault();
    canvas.setPointerCapture(event.pointerId);
    stroke = { width: brush.value, points: [] };
    strokes.push(stroke);
    add(stroke, event);
  }

  /** @param {PointerEvent} event */
  function extend(event) {
    if (!stroke || !event.isPrimary) return;
    const events = event.getCoalescedEvents?.() ?? [];
    for (const each of events.length ? events : [event]) add(stroke, each);
  }

  /** @param {Stroke} current @param {PointerEvent} event */
  function add(current, event) {
    const box = canvas.getBoundingClientRect();
    current.points.push([((event.clientX - box.left) / box.width) * SIDE, ((event.clientY - box.top) / box.height) * SIDE]);
    draw(current, Math.max(0, current.points.length - 2));
    refresh();
    onChange();
  }

  /** @param {PointerEvent} event */
  function finish(event) {
    if (!event.isPrimary || !stroke) return;
    stroke = null;
    onSettle();
  }

  /** @param {Stroke} stroke @param {number} from the point from which it is drawn */
  function draw({ width, points }, from) {
    context.strokeStyle = INK;
    context.lineWidth = width;
    context.lineCap = "round";
    context.lineJoin = "round";
    context.beginPath();
    context.moveTo(...points[from]);
    // A line of no length makes the dot of a tap.
    for (const point of points.slice(Math.min(from + 1, points.length - 1))) context.lineTo(...point);
    context.stroke();
  }

  function redraw() {
    context.fillStyle = PAPER;
    context.fillRect(0, 0, SIDE, SIDE);
    for (const each of strokes) draw(each, 0);
    refresh();
  }

  function refresh() {
    const isEmpty = strokes.length === 0;
    hint.hidden = !isEmpty;
    undoButton.disabled = isEmpty;
    clearButton.disabled = isEmpty;
  }

  /** @param {Stroke[]} kept */
  function restart(kept) {
    strokes = kept;
    stroke = null;
    redraw();
    onSettle();
  }

  return {
    element: h(
      "div",
      { class: "pad" },
      h("div", { class: "pad-paper" }, canvas, hint),
      h("div", { class: "pad-tools" }, brush.element, h("div", { class: "pad-buttons" }, undoButton, clearButton)),
    ),
    get isEmpty() {
      return strokes.length === 0;
    },
    blob: () => blobOf(canvas),
  };
}
