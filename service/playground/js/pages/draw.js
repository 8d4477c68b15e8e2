/** The page of image generators: samples by label, walks among latents, and for a VAE the anomaly score of an image. */

import { modelCard } from "../api.js";
import { h, useStyle } from "../dom.js";
import { anomalyPanel } from "../draw/anomaly.js";
import { Generator, noiseSettings } from "../draw/generator.js";
import { interpolationPanel } from "../draw/interpolation.js";
import { pinnedRow, Pins } from "../draw/pins.js";
import { samplesPanel } from "../draw/samples.js";
import { walkPanel } from "../draw/walk.js";
import { errorBox } from "../errors.js";
import { pageHead } from "../panel.js";
import { latest } from "../scheduling.js";

/** @import { PageContext } from "../types.d.ts" */

export const title = "Draw";

/** @param {HTMLElement} root @param {PageContext} context */
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
  const interpolation = interpolationPanel(shared);
  const anomaly = generator.hasEncoder ? anomalyPanel(shared) : null;

  /** Pins are seeds: other noise makes another image of each, of the interpolation and of the plane. */
  async function redraw() {
    samples.draw();
    try {
      await redrawing.run(async (newer) => {
        const drawn = await Promise.all(pins.all.map((pin) => generator.draw(pin, settings.values(), newer)));
        if (!newer.aborted) pins.redraw(drawn);
      });
      errors.hide();
    } catch (error) {
      errors.show(error);
    }
  }

  const pinned = h("section", { class: "card draw-pinned", "aria-label": "Pinned" }, h("h2", {}, "Pinned"), pinnedRow(shared), settings.element, errors.element);
  root.append(
    pageHead({ title, text: manifest.description, model, models, task: "image-generation" }),
    h(
      "div",
      { class: "draw-page" },
      h("div", { class: "layout" }, samples.element, h("div", { class: "stack draw-right" }, pinned, walk.element)),
      interpolation.element,
      anomaly?.element,
    ),
  );
  samples.draw();
  anomaly?.start();
}
