/** Tokens in a row, one of which is looked at: by hovering, by touch, or with the arrow keys as in a list box. */

import { clear, h } from "../dom.js";

/**
 * `onLook(index)` is told which token is looked at.
 *
 * `render(tokens)` takes [{text, class, title}]; `end`, where given, is one more item behind the last.
 */
export function tokenList({ label, onLook, kind = "" }) {
  const element = h("div", {
    class: `tokens ${kind}`,
    role: "listbox",
    "aria-label": label,
    "aria-orientation": "horizontal",
    on: { keydown: pressed, pointerover: pointed, focusin: pointed, pointerdown: pointed },
  });
  let items = [];
  let at = -1;

  function render(tokens, looked = tokens.length - 1) {
    clear(element);
    items = tokens.map(({ text, class: kind, title, name }, index) => {
      const lines = text.split("\n");
      const shown = lines.flatMap((line, row) => (row < lines.length - 1 ? [line, mark(), h("br", {})] : [line]));
      const props = { class: `token ${kind}`, role: "option", tabindex: -1, dataset: { index }, "aria-selected": "false" };
      return h("span", { ...props, title: title ?? "", "aria-label": name ?? text }, ...shown);
    });
    element.append(...items);
    at = -1;
    select(Math.min(looked, items.length - 1), false);
  }

  const mark = () => h("span", { class: "token-newline" }, "↵");

  function select(index, tell = true) {
    if (index < 0 || index >= items.length || (index === at && tell)) return;
    items[at]?.setAttribute("aria-selected", "false");
    items[at]?.setAttribute("tabindex", "-1");
    at = index;
    items[at].setAttribute("aria-selected", "true");
    items[at].setAttribute("tabindex", "0");
    if (tell) onLook(at);
  }

  function pointed(event) {
    const item = event.target.closest("[data-index]");
    if (item) select(Number(item.dataset.index));
  }

  function pressed(event) {
    const steps = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, Home: -at, End: items.length - 1 - at };
    if (!(event.key in steps)) return;
    event.preventDefault();
    const index = Math.max(0, Math.min(items.length - 1, at + steps[event.key]));
    select(index);
    items[index].focus();
  }

  return { element, render, select, items: () => items, looked: () => at };
}
