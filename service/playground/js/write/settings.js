/** How tokens are drawn: temperature, top-p, seed and length, shared by all that generates on the page. */

import { button, field, slider } from "../controls.js";
import { h } from "../dom.js";
import { anySeed, seedOf } from "../seeds.js";

/** The controls, and `values()`: the members of a request that they stand for. */
export function samplingSettings({ context }) {
  const temperature = slider({ label: "Temperature", min: 0, max: 2, step: 0.05, value: 0.8, format: temperatureText });
  const topP = slider({ label: "Top-p", min: 0.05, max: 1, step: 0.05, value: 0.95, format: (value) => value.toFixed(2) });
  const length = slider({
    label: "Length",
    min: 8,
    max: Math.min(256, context >> 1),
    step: 8,
    value: Math.min(96, context >> 1),
    format: (value) => `${value} tokens`,
  });
  const seed = field({ label: "Seed", value: "11", inputMode: "numeric", placeholder: "random", hint: "The same seed gives the same text." });
  const another = button("New seed", () => seed.set(String(anySeed())), { kind: "small" });
  const element = h(
    "div",
    { class: "write-settings" },
    temperature.element,
    topP.element,
    length.element,
    h("div", { class: "write-seed" }, seed.element, another),
  );

  function values() {
    const members = { max_tokens: length.value, temperature: temperature.value, top_p: topP.value };
    return seed.value.trim() === "" ? members : { ...members, seed: seedOf(seed.value) };
  }

  return { element, values };
}

const temperatureText = (value) => (value === 0 ? "0 (likeliest)" : value.toFixed(2));
