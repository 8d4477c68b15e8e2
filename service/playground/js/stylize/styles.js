/** The gallery of styles: a thumbnail chooses one alone, the sliders blend several. */

import { settingsInAddress } from "../address.js";
import { slider } from "../controls.js";
import { h } from "../dom.js";

/** @import { Style } from "../types.d.ts" */

const FULL = 100;

/** @param {{styles: Style[], onInput: () => void}} options */
export function styleGallery({ styles, onInput }) {
  const cards = styles.map((style) => styleCard(style, choose, onInput));
  if (!restoreWeights()) weigh(cards[0].name);

  /** The weights that the address gives, as the request has them; returns whether it gives any. */
  function restoreWeights() {
    const given = new Map((settingsInAddress().get("styles") ?? "").split(",").map((part) => /** @type {[string, number]} */ ([part.split(":")[0], Number(part.split(":")[1] ?? 1)])));
    const known = cards.filter(({ name }) => (given.get(name) ?? 0) > 0);
    if (known.length === 0) return false;
    for (const each of cards) each.set(Math.round((given.get(each.name) || 0) * FULL));
    return true;
  }

  /** The weights as the address keeps them. */
  function kept() {
    const used = cards.filter((each) => each.weight > 0);
    if (used.length === 1 && used[0] === cards[0]) return ""; // as it begins
    return used.map((each) => (used.length === 1 ? each.name : `${each.name}:${each.weight / FULL}`)).join(",");
  }

  /** @param {string} name */
  function choose(name) {
    weigh(name);
    onInput();
  }

  /** @param {string} name the only style with a weight */
  function weigh(name) {
    for (const each of cards) each.set(each.name === name ? FULL : 0);
  }

  /** The style or the blend as parameters of the request; the service refuses a blend of nothing. */
  function query() {
    const used = cards.filter((each) => each.weight > 0);
    if (used.length === 1) return `style=${encodeURIComponent(used[0].name)}`;
    const parts = (used.length ? used : cards).map((each) => `${encodeURIComponent(each.name)}:${each.weight / FULL}`);
    return `styles=${parts.join(",")}`;
  }

  return { element: h("ul", { class: "styles", "aria-label": "Styles" }, cards.map((each) => each.element)), query, kept };
}

/**
 * A style's name as people write it.
 *
 * @param {string} name
 */
function titled(name) {
  const text = name.replaceAll("_", " ");
  return text.charAt(0).toUpperCase() + text.slice(1);
}

/** @param {Style} style @param {(name: string) => void} onChoose @param {() => void} onInput */
function styleCard({ name, thumbnail }, onChoose, onInput) {
  const weight = slider({
    label: titled(name),
    min: 0,
    max: FULL,
    step: 5,
    value: 0,
    format: (value) => (value ? `${value} %` : "–"),
    onInput: () => {
      mark();
      onInput();
    },
  });
  const choice = h(
    "button",
    { type: "button", class: "style-choice", "aria-label": `Only ${titled(name)}`, on: { click: () => onChoose(name) } },
    h("img", { src: thumbnail, alt: "" }),
  );
  const element = h("li", { class: "style" }, choice, weight.element);

  function mark() {
    element.classList.toggle("used", weight.value > 0);
    choice.setAttribute("aria-pressed", String(weight.value > 0));
  }

  return {
    name,
    element,
    get weight() {
      return weight.value;
    },
    /** @param {number} value */
    set(value) {
      weight.set(value);
      mark();
    },
  };
}
