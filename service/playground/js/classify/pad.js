/** A sheet to draw on with a pen, a finger or a mouse: dark ink on white paper. It knows no model. */

import { button, slider } from "../controls.js";
import { h } from "../dom.js";
import { blobOf } from "../picture_files.js";

const SIDE = 280;
const PAPER = "#fff";
const INK = "#111";

/** The sheet: `{element, isEmpty, blob(), clear()}`; `onChange()` is called with every bit of a stroke. */
export function pad({ label, onChange }) {
  let strokes = [];
  let stroke = null;
  const canvas = h("canvas", { class: "pad-sheet", width: SIDE, height: SIDE, role: "img", "aria-label": label });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const hint = h("p", { class: "pad-hint", "aria-hidden": "true" }, label);
  const brush = slider({ label: "Brush", min: 6, max: 44, step: 1, value: 22, format: (value) => `${value} px` });
  const undoButton = button("Undo", undo, { kind: "small" });
  const clearButton = button("Clear", clearAll, { kind: "small" });
  listen();
  redraw();

  function listen() {
    canvas.addEventListener("pointerdown", begin);
    canvas.addEventListener("pointermove", extend);
    for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, finish);
  }

  function begin(event) {
    if (!event.isPrimary || event.button !== 0) return;
    event.preventDefault();
    canvas.setPointerCapture(event.pointerId);
    stroke = { width: brush.value, points: [] };
    strokes.push(stroke);
    add(event);
  }

  function extend(event) {
    if (!stroke || !event.isPrimary) return;
    const events = event.getCoalescedEvents?.() ?? [];
    for (const each of events.length ? events : [event]) add(each);
  }

  function add(event) {
    const box = canvas.getBoundingClientRect();
    stroke.points.push([((event.clientX - box.left) / box.width) * SIDE, ((event.clientY - box.top) / box.height) * SIDE]);
    draw(stroke, Math.max(0, stroke.points.length - 2));
    tell();
  }

  function finish(event) {
    if (event.isPrimary) stroke = null;
  }

  function draw({ width, points }, from = 0) {
    context.strokeStyle = INK;
    context.lineWidth = width;
    context.lineCap = "round";
    context.lineJoin = "round";
    context.beginPath();
    context.moveTo(...points[from]);
    // A line to where one is makes the dot of a tap.
    for (const point of points.slice(Math.min(from + 1, points.length - 1))) context.lineTo(...point);
    context.stroke();
  }

  function redraw() {
    context.fillStyle = PAPER;
    context.fillRect(0, 0, SIDE, SIDE);
    for (const each of strokes) draw(each);
    refresh();
  }

  function refresh() {
    const isEmpty = strokes.length === 0;
    hint.hidden = !isEmpty;
    undoButton.disabled = isEmpty;
    clearButton.disabled = isEmpty;
  }

  function tell() {
    refresh();
    onChange();
  }

  function undo() {
    strokes.pop();
    redraw();
    onChange();
  }

  function clearAll() {
    strokes = [];
    redraw();
    onChange();
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
    clear: clearAll,
  };
}
