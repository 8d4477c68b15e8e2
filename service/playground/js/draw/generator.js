/** One image generator: its labels, its routes as functions, and the settings of its noise. */

import { json, modelPath } from "../api.js";
import { slider, toggle } from "../controls.js";
import { h } from "../dom.js";
import { pngUrl } from "../image_files.js";

/** @import { GeneratedImage, Graph, Manifest, Noise, SeededImage } from "../types.d.ts" */
/** @import { Pins } from "./pins.js" */

/**
 * What the panels of the page share; `noise()` returns the members of a request that say how images are drawn.
 *
 * @typedef {{generator: Generator, noise: () => Noise, pins: Pins, signal: AbortSignal}} Shared
 */

/** The generator of a manifest. Its routes return `{answer, request}`, the latter for `curl`. */
export class Generator {
  /** @param {Manifest} manifest */
  constructor(manifest) {
    const { decoder, prior } = manifest.graphs;
    this.name = manifest.name;
    this.hasEncoder = "reconstruction" in manifest.graphs;
    this.decoderTakesLabel = takesLabel(decoder);
    this.canBlend = "blend" in manifest.graphs;
    this.knownLabels = manifest.labels ?? [];
    this.isGrey = decoder.outputs[0].shape.at(-1) === 1;
    this.labels = takesLabel(decoder) || takesLabel(prior) ? (manifest.labels ?? []) : [];
  }

  /** @param {number | null} index */
  labelName(index) {
    return index === null ? "Image" : this.labels[index];
  }

  /** @param {SeededImage} image */
  nameOf({ label, seed }) {
    return `${this.labelName(label)}, seed ${seed}`;
  }

  /** @param {string} route */
  path(route) {
    return modelPath(this.name, route);
  }

  /** @param {string} route @param {object} body @param {AbortSignal} signal */
  async post(route, body, signal) {
    const path = this.path(route);
    /** @type {{images: GeneratedImage[]}} */
    const answer = await json(path, body, { signal });
    return { answer, request: { path, body } };
  }

  /**
   * One image by its seed and label, with its latent.
   *
   * @param {Pick<SeededImage, "seed" | "label">} image
   * @param {Noise} noise
   * @param {AbortSignal} signal
   * @returns {Promise<SeededImage & {latent: number[]}>}
   */
  async draw({ seed, label }, noise, signal) {
    const labelled = label === null ? {} : { label };
    const { answer } = await this.post("generate", { seed, ...labelled, ...noise, latents: true }, signal);
    const [{ image, latent = [] }] = answer.images;
    return { seed, label, url: pngUrl(image), latent };
  }
}

/** @param {Graph | undefined} graph */
const takesLabel = (graph) => Boolean(graph?.inputs.some(({ name }) => name === "label"));

/**
 * The settings of the noise; `values()` leaves the API's defaults out.
 *
 * @param {() => void} onInput
 */
export function noiseSettings(onInput) {
  const temperature = slider({ label: "Temperature", min: 0, max: 2, step: 0.05, value: 1, onInput, format: (value) => value.toFixed(2) });
  const truncates = toggle({ label: "Truncate", onInput: switched, hint: "Draws larger numbers again, for more typical images." });
  const truncation = slider({ label: "Largest number", min: 0.1, max: 3, step: 0.1, value: 1, onInput, format: (value) => value.toFixed(1) });
  const element = h("div", { class: "draw-noise" }, temperature.element, truncates.element, truncation.element);
  truncation.input.disabled = true;

  /** @param {boolean} isOn */
  function switched(isOn) {
    truncation.input.disabled = !isOn;
    onInput();
  }

  /** @returns {Noise} */
  const values = () => ({
    ...(temperature.value === 1 ? {} : { temperature: temperature.value }),
    ...(truncates.value ? { truncation: truncation.value } : {}),
  });
  return { element, values };
}
