/** One input of a network as a part of a form: fields, a box for pasted numbers or texts, or a picture. */

import { select } from "../controls.js";
import { h } from "../dom.js";
import { UserError } from "../errors.js";
import { boxOf } from "./box.js";
import { fieldsOf } from "./fields.js";
import { pictureField } from "./picture_field.js";
import { numFields, pictureInput, sizeOf, typeText } from "./specs.js";

/** @import { FilledTensor, TensorSpec, Way } from "../types.d.ts" */

/**
 * The part; `read` throws UserError while the input is not complete, `onPicture` hears of a new picture.
 *
 * @param {TensorSpec} spec
 * @param {{onChange: () => void, onPicture: () => void, signal: AbortSignal}} options
 */
export function inputField(spec, { onChange, onPicture, signal }) {
  const ways = waysOf(spec, { onChange, onPicture, signal });
  let [way] = ways;
  const place = h("div", {}, way.element);
  const status = h("small", { class: "muted", "aria-live": "polite" });
  const choice = select({ label: `How to give ${spec.name}`, options: ways.map(({ label }) => label), onInput: use });
  choice.element.classList.add("way");
  const legend = h("legend", {}, h("b", {}, spec.name), " ", h("span", { class: "muted" }, typeText(spec.datatype, spec.shape)));
  const element = h("fieldset", { class: "input" }, legend, ways.length > 1 ? choice.element : null, place, status);

  /** @param {string} label */
  function use(label) {
    way.stop();
    way = ways.find((one) => one.label === label) ?? way;
    place.replaceChildren(way.element);
    onChange();
  }

  /** @returns {FilledTensor} */
  function read() {
    try {
      const filled = { spec, ...way.read() };
      status.textContent = way.summary?.(filled) ?? "";
      return filled;
    } catch (error) {
      if (!(error instanceof UserError)) throw error;
      status.textContent = error.message;
      throw new UserError(`${spec.name}: ${error.message}`);
    }
  }

  return { element, read, stop: () => way.stop(), fill: (/** @type {boolean} */ isRandom) => way.fill(isRandom) };
}

/**
 * @param {TensorSpec} spec
 * @param {{onChange: () => void, onPicture: () => void, signal: AbortSignal}} options
 * @returns {Way[]}
 */
function waysOf(spec, { onChange, onPicture, signal }) {
  if (spec.datatype === "BYTES") return [boxOf(spec, { onChange })];
  const layout = pictureInput(spec);
  const isOne = numFields(spec) === 1 && sizeOf(spec.shape) === 1;
  return [
    ...(layout ? [pictureField(spec, layout, { onChange: onPicture, signal })] : []),
    ...(numFields(spec) ? [fieldsOf(spec, { onChange })] : []),
    ...(isOne ? [] : [boxOf(spec, { onChange })]),
  ];
}
