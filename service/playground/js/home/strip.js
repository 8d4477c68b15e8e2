/** Pictures that a generator of this service draws while one looks: the proof that it runs. */

import { json, modelPath } from "../api.js";
import { seconds } from "../charts.js";
import { button, errorBox, latest } from "../controls.js";
import { curlPanel } from "../curl.js";
import { clear, h } from "../dom.js";
import { pngUrl } from "../picture_files.js";
import { anySeed } from "../seeds.js";

const NUM_PICTURES = 10;

/** Ten pictures of a model, with a button for ten others: `{element, draw()}`. */
export function strip(model, signal) {
  const pictures = h("ul", { class: "strip-pictures", "aria-label": `Pictures drawn by ${model.id}` });
  const told = h("p", { class: "muted strip-told" }, "Drawing …");
  const errors = errorBox();
  const curl = curlPanel();
  const work = latest({ signal });
  for (let index = 0; index < NUM_PICTURES; index += 1) pictures.append(h("li", { class: "strip-empty" }));

  async function draw() {
    const path = modelPath(model.id, "generate");
    const body = { num_images: NUM_PICTURES, seed: anySeed() };
    try {
      const began = performance.now();
      const answer = await work.run((running) => json(path, body, { signal: running }));
      if (!answer) return;
      const took = (performance.now() - began) / 1000;
      clear(pictures).append(...answer.images.map(picture));
      told.textContent = `Drawn just now by ${model.id} from ten random seeds, in ${seconds(took)}.`;
      curl.show({ path, body });
      errors.hide();
    } catch (error) {
      errors.show(error);
    }
  }

  const element = h(
    "div",
    { class: "strip" },
    pictures,
    h("div", { class: "row spread" }, told, button("Draw ten others", draw, { kind: "small" })),
    errors.element,
    curl.element,
  );
  return { element, draw };
}

function picture({ image, label, seed }) {
  const words = label ? `${label}, seed ${seed}` : `seed ${seed}`;
  return h("li", {}, h("img", { src: pngUrl(image), alt: words, title: words, width: 84, height: 84 }));
}
