/** A number, or a vector of few, as fields; truths as switches. */

import { field, toggle } from "../controls.js";
import { h } from "../dom.js";
import { UserError } from "../errors.js";
import { elementsOf, triedElements } from "./numbers.js";
import { boundsOf, isFloat, numFields, rowShape } from "./specs.js";

/** @import { TensorSpec, Way } from "../types.d.ts" */

/**
 * @param {TensorSpec} spec
 * @param {{onChange: () => void}} options
 * @returns {Way}
 */
export function fieldsOf(spec, { onChange }) {
  const count = numFields(spec);
  const labels = Array.from({ length: count }, (_, index) => (count === 1 ? spec.name : `${spec.name} ${index}`));
  return spec.datatype === "BOOL" ? switchesOf(spec, labels, onChange) : numbersOf(spec, labels, onChange);
}

/** @param {TensorSpec} spec @param {string[]} labels @param {() => void} onChange @returns {Way} */
function switchesOf(spec, labels, onChange) {
  const switches = labels.map((label) => toggle({ label, onInput: onChange }));
  return {
    label: "Switches",
    element: h("div", { class: "fields" }, switches.map(({ element }) => element)),
    read: () => ({ shape: rowShape(spec), elements: switches.map(({ value }) => value) }),
    fill(isRandom) {
      triedElements(spec, switches.length, isRandom).forEach((value, index) => switches[index].set(value === true));
    },
    stop() {},
  };
}

/** @param {TensorSpec} spec @param {string[]} labels @param {() => void} onChange @returns {Way} */
function numbersOf(spec, labels, onChange) {
  const [min, max] = boundsOf(spec.datatype) ?? [];
  const bounds = { min: min === undefined ? undefined : String(min), max: max === undefined ? undefined : String(max) };
  const fields = labels.map((label) => field({ label, type: "number", step: isFloat(spec.datatype) ? "any" : "1", ...bounds, onInput: onChange }));
  return {
    label: fields.length === 1 ? "A number" : "Fields",
    element: h("div", { class: "fields" }, fields.map(({ element }) => element)),
    read() {
      const words = fields.map(({ value }) => value);
      const given = words.filter(Boolean).length;
      if (given < fields.length) throw new UserError(`${given} of ${fields.length} ${fields.length === 1 ? "number" : "numbers"}.`);
      return { shape: rowShape(spec), elements: elementsOf(spec, words) };
    },
    fill(isRandom) {
      triedElements(spec, fields.length, isRandom).forEach((value, index) => fields[index].set(String(value)));
    },
    stop() {},
  };
}
