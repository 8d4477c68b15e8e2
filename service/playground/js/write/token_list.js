/** Tokens in a row, one of which is selected: by hovering, by touch, or with the arrow keys as in a list box. */

import { clear, closest, h } from "../dom.js";

/** @typedef {{text: string, class: string, name: string, title?: string}} Item */

/**
 * `onSelect` gets the index of each token that the user selects.
 *
 * @param {{label: string, onSelect: (index: number) => void, kind?: string}} options
 */
export function tokenList({ label, onSelect, kind = "" }) {
  const element = h("div", {
    class: `tokens ${kind}`,
    role: "listbox",
    "aria-label": label,
    "aria-orientation": "horizontal",
    on: { keydown: pressed, pointerover: pointed, focusin: pointed, pointerdown: pointed },
  });
  /** @type {HTMLElement[]} */
  let items = [];
  let selected = -1;

  /**
   * Show other tokens, the last of them selected.
   *
   * @param {Item[]} tokens
   */
  function render(tokens) {
    items = tokens.map(item);
    clear(element).append(...items);
    selected = -1;
    select(items.length - 1);
    element.scrollTop = element.scrollHeight; // to the selected one
  }

  /** @param {number} index */
  function select(index) {
    items[selected]?.setAttribute("aria-selected", "false");
    items[selected]?.setAttribute("tabindex", "-1");
    selected = index;
    items[selected]?.setAttribute("aria-selected", "true");
    items[selected]?.setAttribute("tabindex", "0");
  }

  /** @param {number} index */
  function choose(index) {
    if (index === selected) return;
    select(index);
    onSelect(index);
  }

  /** @param {Event} event */
  function pointed(event) {
    const index = closest(event, "[data-index]")?.dataset.index;
    if (index !== undefined) choose(Number(index));
  }

  /** @param {KeyboardEvent} event */
  function pressed(event) {
    /** @type {Partial<Record<string, number>>} */
    const steps = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, Home: -Infinity, End: Infinity };
    const step = steps[event.key];
    if (step === undefined || items.length === 0) return;
    event.preventDefault();
    const index = Math.max(0, Math.min(items.length - 1, selected + step));
    choose(index);
    items[index].focus();
  }

  return { element, render, items: () => items, selected: () => selected };
}

/** @param {Item} token @param {number} index */
function item({ text, class: kind, title = "", name }, index) {
  const lines = text.split("\n");
  const shown = lines.map((line, row) => (row < lines.length - 1 ? [line, h("span", { class: "token-newline" }, "↵"), h("br")] : line));
  return h(
    "span",
    { class: `token ${kind}`, role: "option", tabindex: -1, dataset: { index }, title, "aria-selected": "false", "aria-label": name },
    shown,
  );
}
