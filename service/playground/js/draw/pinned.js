/** The pinned pictures in a row, each with its letter, its seed and a way to let it go. */

import { h } from "../dom.js";
import { letter } from "./pins.js";

/** An element that follows the pins. */
export function pinnedRow({ generator, pins }) {
  const list = h("ul", { class: "pinned", "aria-label": "Pinned pictures" });

  function render() {
    // Whoever lets pictures go by keyboard stays in the row.
    const at = [...list.children].findIndex((child) => child.contains(document.activeElement));
    show();
    if (at >= 0) (list.children[at] ?? list.lastElementChild).querySelector("button")?.focus();
  }

  function show() {
    if (!pins.all.length) return list.replaceChildren(h("li", { class: "muted" }, "Nothing is pinned. Click a sample to pin it."));
    return list.replaceChildren(...pins.all.map(item));
  }

  function item(pin, index) {
    const name = generator.labelName(pin.label);
    const away = h(
      "button",
      { type: "button", class: "pinned-away", "aria-label": `Let go ${letter(index)}, ${name}, seed ${pin.seed}`, on: { click: () => pins.toggle(pin) } },
      "×",
    );
    return h(
      "li",
      { class: "pinned-item" },
      h("img", { src: pin.url, alt: "", width: 56, height: 56 }),
      h("span", { class: "pinned-letter" }, letter(index)),
      h("span", { class: "pinned-name" }, name, h("small", {}, `seed ${pin.seed}`)),
      away,
    );
  }

  pins.addEventListener("change", render);
  render();
  return list;
}
