/** Labelled controls, buttons and a status line. */

import { announce, h, uniqueId } from "./dom.js";

/** @import { Control, Option, Props } from "./types.d.ts" */

/**
 * A labelled range; `format(value)` words the number beside it.
 *
 * @param {object} options
 * @param {string} options.label
 * @param {number} options.min
 * @param {number} options.max
 * @param {number} [options.step]
 * @param {number} options.value
 * @param {(value: number) => unknown} [options.onInput]
 * @param {(value: number) => string} [options.format]
 * @returns {Control<number>}
 */
export function slider({ label, min, max, step = 0.01, value, onInput = () => {}, format = String }) {
  const id = uniqueId("slider");
  const output = h("output", { class: "slider-value", for: id });
  const input = h("input", { type: "range", id, min, max, step, on: { input: changed } });
  input.valueAsNumber = value;
  show();

  function show() {
    output.textContent = format(input.valueAsNumber);
    input.setAttribute("aria-valuetext", output.textContent);
  }

  function changed() {
    show();
    onInput(input.valueAsNumber);
  }

  return {
    element: h("div", { class: "control slider" }, h("label", { for: id }, label), output, input),
    input,
    get value() {
      return input.valueAsNumber;
    },
    set(next) {
      input.valueAsNumber = next;
      show();
    },
  };
}

/**
 * A labelled list to choose from.
 *
 * @param {object} options
 * @param {string} options.label
 * @param {readonly (Option | string)[]} options.options
 * @param {string} [options.value]
 * @param {(value: string) => unknown} [options.onInput]
 * @returns {Control<string, HTMLSelectElement>}
 */
export function select({ label, options, value, onInput = () => {} }) {
  const input = h("select", { id: uniqueId("select"), on: { change: changed } });
  setOptions(input, options);
  if (value !== undefined) input.value = value;

  function changed() {
    onInput(input.value);
  }

  return labelled(label, input);
}

/**
 * Replace the options of a list.
 *
 * @param {HTMLSelectElement} input
 * @param {readonly (Option | string)[]} options
 */
export function setOptions(input, options) {
  input.replaceChildren();
  /** @type {Option[]} */
  const all = options.map((option) => (typeof option === "string" ? { value: option, label: option } : option));
  for (const group of new Set(all.map((one) => one.group))) {
    const elements = all.filter((one) => one.group === group).map(({ value, label }) => h("option", { value }, label));
    input.append(...(group ? [h("optgroup", { label: group }, elements)] : elements));
  }
}

/**
 * A labelled text or number; further props are those of `<input>`.
 *
 * @param {{label: string, onInput?: (value: string) => unknown, hint?: string} & Props<HTMLInputElement>} options
 * @returns {Control<string>}
 */
export function field({ label, onInput = () => {}, hint, ...props }) {
  const input = h("input", { id: uniqueId("field"), type: "text", ...props, on: { input: changed } });

  function changed() {
    onInput(input.value);
  }

  return labelled(label, input, hint);
}

/**
 * @template {HTMLInputElement | HTMLSelectElement} Input
 * @param {string} label
 * @param {Input} input
 * @param {string} [hint]
 * @returns {Control<string, Input>}
 */
function labelled(label, input, hint) {
  return {
    element: h("div", { class: "control" }, h("label", { for: input.id }, label), input, hintFor(input, hint)),
    input,
    get value() {
      return input.value;
    },
    set(next) {
      input.value = next;
    },
  };
}

/** @param {HTMLElement} input @param {string} [hint] */
function hintFor(input, hint) {
  if (!hint) return null;
  const id = uniqueId("hint");
  input.setAttribute("aria-describedby", id);
  return h("small", { id, class: "hint" }, hint);
}

/**
 * A labelled switch.
 *
 * @param {object} options
 * @param {string} options.label
 * @param {boolean} [options.value]
 * @param {(value: boolean) => unknown} [options.onInput]
 * @param {string} [options.hint]
 * @returns {Control<boolean>}
 */
export function toggle({ label, value = false, onInput = () => {}, hint }) {
  const id = uniqueId("toggle");
  const input = h("input", { type: "checkbox", role: "switch", id, checked: value, on: { change: changed } });

  function changed() {
    onInput(input.checked);
  }

  return {
    element: h("div", { class: "control toggle" }, input, h("label", { for: id }, label), hintFor(input, hint)),
    input,
    get value() {
      return input.checked;
    },
    set(next) {
      input.checked = next;
    },
  };
}

/**
 * A button; `kind` is "primary", "small" or nothing.
 *
 * @param {string} label
 * @param {(event: MouseEvent) => unknown} onClick
 * @param {{kind?: string} & Props<HTMLButtonElement>} [props]
 */
export function button(label, onClick, { kind = "", ...props } = {}) {
  return h("button", { type: "button", class: `button ${kind}`.trim(), ...props, on: { click: onClick } }, label);
}

/** A line of progress; `isAnnounced` sends the text to screen readers too. */
export function statusLine() {
  const element = h("p", { class: "status muted" });

  /** @param {string} text */
  function say(text, { isAnnounced = false } = {}) {
    element.textContent = text;
    if (isAnnounced) announce(text);
  }

  return { element, say };
}
