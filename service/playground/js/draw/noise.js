/** How the noise of pictures is drawn: temperature and truncation. */

import { slider, toggle } from "../controls.js";
import { h } from "../dom.js";

/** The controls, and `values()`: the members of a request that they stand for; the API's defaults are not sent. */
export function noiseSettings(onInput) {
  const temperature = slider({ label: "Temperature", min: 0, max: 2, step: 0.05, value: 1, onInput, format: (value) => value.toFixed(2) });
  const truncates = toggle({ label: "Truncate", onInput: switched, hint: "Larger numbers are drawn again: more typical pictures." });
  const truncation = slider({ label: "Largest number", min: 0.1, max: 3, step: 0.1, value: 1, onInput, format: (value) => value.toFixed(1) });
  const element = h("div", { class: "draw-noise" }, temperature.element, truncates.element, truncation.element);
  truncation.input.disabled = true;

  function switched(isOn) {
    truncation.input.disabled = !isOn;
    onInput();
  }

  const values = () => ({
    ...(temperature.value === 1 ? {} : { temperature: temperature.value }),
    ...(truncates.value ? { truncation: truncation.value } : {}),
  });
  return { element, values };
}
