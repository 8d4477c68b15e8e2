/** The panel of the latent walk: four images at the corners of a plane, and between them whatever the pointer is over. */

import { statusLine } from "../controls.js";
import { announce, h } from "../dom.js";
import { pngUrl } from "../image_files.js";
import { panel } from "../panel.js";
import { latest, paced } from "../scheduling.js";
import { letter } from "./pins.js";
import { plane } from "./plane.js";

/** @import { CurlRequest, GeneratedImage, Place, SeededImage } from "../types.d.ts" */
/** @import { Shared } from "./generator.js" */

const NUM_CORNERS = 4;
const SPARE_SEED = 101;
const MAP_COLUMNS = 10;
const FRAME_MILLISECONDS = 16;
const ANNOUNCE_MILLISECONDS = 700;
const DIGITS = 4;
const MIN_WEIGHT_NAMED = 0.05;

/**
 * Corners are the first four pins; where there are fewer, images of the seeds 101 to 104.
 *
 * @param {Shared} shared
 */
export function walkPanel({ generator, noise, pins, signal }) {
  const square = plane({ label: "Latent plane", describedBy: "walk-keys", onMove: () => following.touch() });
  const large = h("img", { class: "walk-large", alt: "", width: 196, height: 196, hidden: true });
  const status = statusLine();
  const weightsList = h("ul", { class: "walk-weights" });
  const card = panel(
    { title: "Latent walk", kind: "draw-walk", answer: [large, weightsList, status.element] },
    h("p", { class: "panel-hint", id: "walk-keys" }, "Drag over the plane, or use the arrow keys (Shift makes leaps). The corners are the first four pinned images."),
    h("div", { class: "walk-columns" }, square.element, h("div", { class: "walk-side" }, large, weightsList, status.element)),
  );
  const settling = latest({ debounce: 60, signal });
  const announcing = latest({ debounce: ANNOUNCE_MILLISECONDS, signal });
  const moving = latest({ signal });
  const following = paced(draw, { milliseconds: FRAME_MILLISECONDS, signal });
  /** @type {(SeededImage & {latent: number[]})[]} */
  let corners = [];

  /** Fetch the corners' latents, and paint the ground between them. */
  function settle() {
    return card.guard(() =>
      settling.run(async (newer) => {
        const ends = Array.from({ length: NUM_CORNERS }, (_, index) => pins.all[index] ?? spare(index));
        const found = await Promise.all(ends.map((corner) => generator.draw(corner, noise(), newer)));
        if (newer.aborted) return;
        corners = found;
        const ground = Array.from({ length: MAP_COLUMNS ** 2 }, (_, at) => ({
          x: ((at % MAP_COLUMNS) + 0.5) / MAP_COLUMNS,
          y: (Math.floor(at / MAP_COLUMNS) + 0.5) / MAP_COLUMNS,
        }));
        const { answer } = await generator.post("decode", bodyOf(ground), newer);
        if (newer.aborted) return;
        await square.paint(answer.images.map(({ image }) => pngUrl(image)), MAP_COLUMNS);
        const { x, y } = square.at();
        square.go(x, y);
      }),
    );
  }

  /** @param {number} index */
  function spare(index) {
    const numLabels = generator.labels.length;
    return { seed: SPARE_SEED + index, label: numLabels ? (index * 2 + 1) % numLabels : null };
  }

  /**
   * The body that decodes some places.
   *
   * @param {Place[]} places
   */
  function bodyOf(places) {
    const weights = places.map(cornerWeights);
    const latents = corners.map(({ latent }) => latent);
    const body = { latents: weights.map((some) => blended(latents, some)) };
    if (!generator.decoderTakesLabel) return body;
    if (generator.canBlend) return { ...body, label_weights: weights.map(labelWeights) };
    const labels = weights.map((some) => corners[nearest(some)].label);
    return { ...body, label: labels.length === 1 ? labels[0] : labels };
  }

  /** The weight of every label at a place, of the corners that have it. @param {number[]} weights of the corners */
  function labelWeights(weights) {
    const shares = new Array(generator.labels.length).fill(0);
    corners.forEach(({ label }, index) => {
      if (label !== null) shares[label] += weights[index];
    });
    return shares.map((share) => Number(share.toFixed(DIGITS)));
  }

  /** Draw the image of the place where the pointer is now. */
  function draw() {
    return card.guard(async () => {
      if (!corners.length) return true;
      const place = square.at();
      const began = performance.now();
      const drawn = await moving.run((newer) => generator.post("decode", bodyOf([place]), newer));
      if (!drawn) return false;
      show(place, drawn.answer.images[0], drawn.request);
      status.say(`Round trip: ${(performance.now() - began).toFixed(0)} ms.`);
      return true;
    });
  }

  /** @param {Place} place @param {GeneratedImage} image @param {CurlRequest} request */
  function show(place, { image }, request) {
    const words = described(place);
    const url = pngUrl(image);
    square.show(url, words);
    large.src = url;
    large.alt = words;
    large.hidden = false;
    card.show(request);
    showWeights(place);
    announcing.run(() => {
      if (document.activeElement === square.element) announce(words);
    });
  }

  /** @param {Place} place */
  function showWeights(place) {
    const weights = cornerWeights(place);
    const best = nearest(weights);
    const rows = corners.map((corner, index) => {
      const share = h("span", { class: "walk-fill", style: { width: `${weights[index] * 100}%` } });
      const kind = index === best ? "walk-weight is-nearest" : "walk-weight";
      const name = `${letter(index)} ${generator.labelName(corner.label)}`;
      return h("li", { class: kind }, h("span", {}, name), h("span", { class: "walk-bar" }, share), h("span", {}, `${Math.round(weights[index] * 100)} %`));
    });
    weightsList.replaceChildren(...rows);
  }

  /** @param {Place} place */
  function described(place) {
    const parts = cornerWeights(place)
      .map((weight, index) => ({ weight, name: `${letter(index)}, ${generator.labelName(corners[index].label)}` }))
      .filter(({ weight }) => weight >= MIN_WEIGHT_NAMED)
      .sort((a, b) => b.weight - a.weight);
    return parts.map(({ weight, name }) => `${Math.round(weight * 100)} % ${name}`).join("; ");
  }

  pins.addEventListener("change", settle);
  return { element: card.element };
}

/**
 * The weights of the corners A (left top), B (right top), C (left bottom) and D at a place.
 *
 * @param {Place} place
 */
const cornerWeights = ({ x, y }) => [(1 - x) * (1 - y), x * (1 - y), (1 - x) * y, x * y];

/**
 * The latent at a place: the weighted sum, scaled to the weighted length of the corners. Unscaled it would be too short in
 * the middle, where the generator was never trained. A corner is its own latent, unrounded: it must give the very image
 * that was pinned.
 *
 * @param {number[][]} latents
 * @param {number[]} weights
 */
function blended(latents, weights) {
  const corner = weights.indexOf(1);
  if (corner >= 0) return latents[corner];
  const mean = (/** @type {(latent: number[]) => number} */ of) => latents.reduce((sum, latent, index) => sum + weights[index] * of(latent), 0);
  const sum = latents[0].map((_, at) => mean((latent) => latent[at]));
  const scale = mean(length) / Math.max(length(sum), 1e-9);
  return sum.map((value) => Number((value * scale).toFixed(DIGITS)));
}

/** @param {number[]} latent */
const length = (latent) => Math.hypot(...latent);

/** @param {number[]} weights */
const nearest = (weights) => weights.indexOf(Math.max(...weights));
