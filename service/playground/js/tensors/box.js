/** A box for pasted numbers or texts, with a field for the size of each open axis. */

import { field } from "../controls.js";
import { h, uniqueId } from "../dom.js";
import { UserError } from "../errors.js";
import { elementsOf, filledShape, triedElements, wordsOf } from "./numbers.js";
import { rowShape, sizeOf, triedShape } from "./specs.js";

/** @import { Filled, TensorSpec, Way } from "../types.d.ts" */

const MAX_SHOWN = 20_000; // a text area of more is slow to type in
const MAX_TRIED = 16_777_216;

/**
 * @param {TensorSpec} spec
 * @param {{onChange: () => void}} options
 * @returns {Way}
 */
export function boxOf(spec, { onChange }) {
  const isText = spec.datatype === "BYTES";
  const isOneText = isText && sizeOf(rowShape(spec)) === 1;
  const axes = isOneText ? [] : spec.shape.flatMap((size, axis) => (size < 0 ? [axis] : []));
  const sizes = axes.map((axis) => field({ label: `Size of axis ${axis}`, type: "number", min: "0", step: "1", placeholder: "as pasted", onInput: onChange }));
  const things = isText ? "texts" : "numbers";
  const id = uniqueId("box");
  const area = h("textarea", { id, rows: isOneText ? 3 : 5, spellcheck: false, on: { input: typed } });
  const label = isOneText ? spec.name : isText ? `${spec.name}, one a line or a list in JSON` : `${spec.name}, apart by commas, blanks or lines, or in JSON`;
  /** @type {{shape: number[], elements: (string | boolean)[]} | null} */
  let held = null;

  function typed() {
    held = null;
    area.placeholder = "";
    onChange();
  }

  /** The sizes that were given, by axis. */
  function given() {
    /** @type {(number | null)[]} */
    const all = spec.shape.map(() => null);
    axes.forEach((axis, index) => {
      const { value } = sizes[index];
      if (value !== "" && !/^\d+$/.test(value)) throw new UserError(`The size of axis ${axis} is ${value}; it must be a whole number.`);
      all[axis] = value === "" ? null : Number(value);
    });
    return all;
  }

  function read() {
    if (held) return held;
    if (isOneText) return { shape: rowShape(spec), elements: [area.value] };
    const { words, shape: seen } = isText ? { words: textsIn(area.value), shape: null } : wordsOf(area.value);
    const shape = filledShape(spec.shape, { count: words.length, sizes: given(), seen, things });
    return { shape, elements: isText ? words : elementsOf(spec, words) };
  }

  /** @param {boolean} isRandom */
  function fill(isRandom) {
    const shape = isOneText ? rowShape(spec) : triedShape(spec.shape, given());
    const count = sizeOf(shape);
    if (count > MAX_TRIED) throw new UserError(`${count.toLocaleString("en")} numbers are more than this page makes.`);
    const elements = triedElements(spec, count, isRandom);
    held = count > MAX_SHOWN ? { shape, elements } : null;
    area.value = held ? "" : textOf(elements, shape, isText);
    area.placeholder = held ? `${count.toLocaleString("en")} ${things}, not shown. Type or paste others.` : "";
  }

  return {
    label: isText ? "Text" : "Pasted numbers",
    element: h(
      "div",
      { class: "stack" },
      h("div", { class: "control" }, h("label", { for: id }, label), area),
      sizes.length ? h("div", { class: "fields" }, sizes.map(({ element }) => element)) : null,
    ),
    read,
    fill,
    summary: (filled) => (isOneText ? "" : summaryOf(filled, things)),
    stop() {},
  };
}

/** @param {Filled} filled @param {string} things */
function summaryOf({ shape, elements }, things) {
  return `${elements.length.toLocaleString("en")} ${things}: the shape ${shape.length ? shape.join(" × ") : "of one"}.`;
}

/** @param {readonly (string | boolean)[]} elements @param {number[]} shape @param {boolean} isText */
function textOf(elements, shape, isText) {
  if (isText) return elements.join("\n");
  const width = Math.max(shape.at(-1) ?? 1, 1);
  const lines = Array.from({ length: elements.length / width }, (_, row) => elements.slice(row * width, (row + 1) * width).join(", "));
  return lines.join("\n");
}

/** @param {string} text */
function textsIn(text) {
  if (!text.trimStart().startsWith("[")) return text.split("\n").filter(Boolean);
  try {
    return /** @type {unknown[]} */ (JSON.parse(text)).flat(Infinity).map(String);
  } catch {
    throw new UserError("A list in JSON is [\"one\", \"two\"].");
  }
}
