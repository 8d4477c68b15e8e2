/** The gallery of styles: a thumbnail chooses one alone, a slider a style blends several. */

import { slider } from "../controls.js";
import { h } from "../dom.js";

const FULL = 100;

/** `{element, query()}` of styles `{name, thumbnail}` as the service lists them; `onInput()` hears of every change. */
export function styleGallery({ styles, onInput }) {
  const cards = styles.map((style) => styleCard(style, only, changed));
  only(cards[0].name, { quietly: true });

  function only(name, { quietly = false } = {}) {
    for (const each of cards) each.set(each.name === name ? FULL : 0);
    if (!quietly) onInput();
  }

  function changed() {
    for (const each of cards) each.tell();
    onInput();
  }

  /** The style or the blend as parameters of the request; all at nothing is the service's to refuse. */
  function query() {
    const used = cards.filter((each) => each.weight > 0);
    if (used.length === 1) return `style=${encodeURIComponent(used[0].name)}`;
    const parts = (used.length ? used : cards).map((each) => `${encodeURIComponent(each.name)}:${each.weight / FULL}`);
    return `styles=${parts.join(",")}`;
  }

  return { element: h("ul", { class: "styles", "aria-label": "Styles" }, cards.map((each) => each.element)), query };
}

/** A style's name as people write it. */
export function spoken(name) {
  const text = name.replaceAll("_", " ");
  return text.charAt(0).toUpperCase() + text.slice(1);
}

function styleCard({ name, thumbnail }, only, onInput) {
  const weight = slider({
    label: spoken(name),
    min: 0,
    max: FULL,
    step: 5,
    value: 0,
    format: (value) => (value ? `${value} %` : "–"),
    onInput,
  });
  const choose = h(
    "button",
    { type: "button", class: "style-choice", "aria-label": `Only ${spoken(name)}`, on: { click: () => only(name) } },
    h("img", { src: thumbnail, alt: "" }),
  );
  const element = h("li", { class: "style" }, choose, weight.element);

  function tell() {
    element.classList.toggle("used", weight.value > 0);
    choose.setAttribute("aria-pressed", String(weight.value > 0));
  }

  return {
    name,
    element,
    tell,
    get weight() {
      return weight.value;
    },
    set(value) {
      weight.set(value);
      tell();
    },
  };
}
