/** The page of image generators: samples by label, walks among latents, and for a VAE how strange a picture is. */

import { card as modelCard } from "../api.js";
import { errorBox, latest } from "../controls.js";
import { h, useStyle } from "../dom.js";
import { Generator } from "../draw/generator.js";
import { noiseSettings } from "../draw/noise.js";
import { pinnedRow } from "../draw/pinned.js";
import { Pins } from "../draw/pins.js";
import { samplesPanel } from "../draw/samples.js";
import { strangenessPanel } from "../draw/strangeness.js";
import { stripPanel } from "../draw/strip.js";
import { walkPanel } from "../draw/walk.js";
import { pageHead } from "../page_head.js";

export const title = "Draw";

export default async function page(root, { model, models, signal }) {
  const [{ manifest }] = await Promise.all([modelCard(model, { signal }), useStyle("draw")]);
  if (signal.aborted) return;

  const generator = new Generator(manifest);
  const pins = new Pins();
  const errors = errorBox();
  const redrawing = latest({ debounce: 120, signal });
  const settings = noiseSettings(redraw);
  const shared = { generator, noise: settings.values, pins, signal };
  const samples = samplesPanel(shared);
  const walk = walkPanel(shared);
  const strip = stripPanel(shared);
  const strangeness = generator.hasEncoder ? strangenessPanel(shared) : null;

  /** Pins are seeds: with other noise each of them is another picture, and with it the strip and the plane. */
  async function redraw() {
    samples.draw();
    try {
      await redrawing.run(async (newer) => {
        const drawn = await Promise.all(pins.all.map((pin) => generator.one(pin, settings.values(), newer)));
        if (!newer.aborted) pins.redraw(drawn.map(({ picture }) => picture));
      });
      errors.hide();
    } catch (error) {
      errors.show(error);
    }
  }

  const kept = h("section", { class: "card draw-kept", "aria-label": "Pinned" }, h("h2", {}, "Pinned"), pinnedRow(shared), settings.element, errors.element);
  root.append(
    pageHead({ title, text: manifest.description ?? "", model, models, task: "image-generation" }),
    h(
      "div",
      { class: "draw-page" },
      h("div", { class: "layout" }, samples.element, h("div", { class: "stack draw-right" }, kept, walk.element)),
      strip.element,
      strangeness?.element ?? null,
    ),
  );
  samples.draw();
  strangeness?.start();
}
