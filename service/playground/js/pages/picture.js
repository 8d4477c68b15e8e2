/** One picture shown to every model that takes one: classifiers with their doubts, all styles as a sheet, reconstructions. */

import { json, modelCard, modelPath, request } from "../api.js";
import { bars } from "../charts.js";
import { clear, h, useStyle } from "../dom.js";
import { isAbort } from "../errors.js";
import { handed } from "../handed.js";
import { blobUrl, pngUrl, shrunk } from "../image_files.js";
import { imageInput, samplesOf } from "../image_input.js";
import { latest } from "../scheduling.js";
import { addressOf, modelsOf } from "../tasks.js";

/** @import { Classification, ModelEntry, NamedBlob, PageContext, Reconstruction, Style } from "../types.d.ts" */
/** @typedef {{element: HTMLElement, ask: (picture: NamedBlob, signal: AbortSignal) => Promise<void>}} Place */

export const title = "One picture";

const MAX_SIDE = 384;
const TOP_K = 3;

/** @param {HTMLElement} root @param {PageContext} context */
export default async function page(root, { models, signal }) {
  const [encoders, tiles] = await Promise.all([encodersOf(models, signal), tilesOf(models, signal), useStyle("picture")]);
  if (signal.aborted) return;
  const classifiers = modelsOf(models, "image-classification").map(classifierPlace);
  const reconstructions = encoders.map(reconstructionPlace);
  const places = [...classifiers, ...reconstructions, ...tiles];
  const work = latest({ signal });
  const address = blobUrl(signal);
  const shown = h("img", { class: "picture-shown", alt: "", hidden: true });
  const input = imageInput({ samples: samplesOf("photos"), label: "Picture for every model", onImage: take, signal });

  /** @param {Blob} blob @param {string} name */
  async function take(blob, name) {
    shown.src = address.of(blob);
    shown.alt = name;
    shown.hidden = false;
    await work.run(async (newer) => {
      const small = await shrunk({ blob, name }, MAX_SIDE);
      // One after the other, so that answers arrive as they are made and other callers get their turn.
      for (const place of places) if (!newer.aborted) await place.ask(small, newer);
    });
  }

  root.append(
    h(
      "div",
      { class: "page-head" },
      h("h1", {}, "One picture, every model"),
      h("p", {}, "Drop a picture anywhere on any page. Each model answers as far as it can; a classifier says so where it has seen nothing like it."),
    ),
    h("div", { class: "picture-head" }, h("section", { class: "card", "aria-label": "Your picture" }, input.element), shown),
    section("What the classifiers say", "picture-grid", classifiers),
    section("In every style", "picture-sheet", tiles),
    section("Reconstructed", "picture-grid", reconstructions),
  );
  const given = handed();
  if (given) input.set(given.blob, given.name);
  else input.pick(samplesOf("photos")[0]);
}

/** @param {string} heading @param {string} kind @param {Place[]} places */
function section(heading, kind, places) {
  if (places.length === 0) return "";
  return h("section", { class: "card" }, h("h2", {}, heading), h("div", { class: kind }, places.map(({ element }) => element)));
}

/** The models with an encoder; a card says which have one. @param {ModelEntry[]} models @param {AbortSignal} signal */
async function encodersOf(models, signal) {
  const generators = modelsOf(models, "image-generation");
  const cards = await Promise.all(generators.map(({ id }) => modelCard(id, { signal })));
  return generators.filter((_, index) => {
    const { reconstruction } = cards[index].manifest.graphs;
    return reconstruction && !reconstruction.inputs.some(({ name }) => name === "label");
  });
}

/** @param {ModelEntry[]} models @param {AbortSignal} signal */
async function tilesOf(models, signal) {
  const found = await Promise.all(
    modelsOf(models, "style-transfer").map(async ({ id }) => {
      /** @type {{styles: Style[]}} */
      const { styles } = await json(modelPath(id, "styles"), undefined, { signal });
      return styles.map(({ name }) => stylePlace(id, name, signal));
    }),
  );
  return found.flat();
}

/**
 * A place that waits in grey, shows what `answer` makes of the picture, or why there is none.
 *
 * @param {HTMLElement} element
 * @param {HTMLElement} body
 * @param {(picture: NamedBlob, signal: AbortSignal) => Promise<(Node | string)[]>} answer
 * @returns {Place}
 */
function placeOf(element, body, answer) {
  async function ask(/** @type {NamedBlob} */ picture, /** @type {AbortSignal} */ signal) {
    clear(body).classList.add("skeleton");
    try {
      body.append(...(await answer(picture, signal)));
    } catch (error) {
      if (isAbort(error)) return;
      body.append(h("p", { class: "muted" }, error instanceof Error ? error.message : "No answer."));
    }
    body.classList.remove("skeleton");
  }

  return { element, ask };
}

/** @param {ModelEntry} model */
function classifierPlace(model) {
  const body = h("div", { class: "stack", "aria-live": "polite" });
  const element = h("article", { class: "picture-answer" }, h("h3", {}, h("a", { href: addressOf(model) }, model.id)), body);
  return placeOf(element, body, async ({ blob }, signal) => {
    const response = await request(modelPath(model.id, `classify?top_k=${TOP_K}`), { body: blob, signal });
    /** @type {Classification} */
    const { results } = await response.json();
    const [{ predictions, novelty, is_novel: isNovel }] = results;
    const rows = predictions.map(({ label, probability }) => ({ label, value: probability, text: `${(probability * 100).toFixed(1)} %` }));
    if (isNovel) {
      // A number would look sure of something that the network cannot know.
      const words = `Nothing like what it was trained on (novelty ${novelty?.toFixed(1)}); ${predictions[0].label} is only the least unlikely.`;
      return [h("p", { class: "picture-novel" }, words)];
    }
    return [h("p", { class: "verdict" }, h("strong", {}, predictions[0].label)), bars(rows, { max: 1, label: `The likeliest labels by ${model.id}` })];
  });
}

/** @param {string} model @param {string} style @param {AbortSignal} pageSignal */
function stylePlace(model, style, pageSignal) {
  const address = blobUrl(pageSignal);
  const frame = h("a", { class: "frame", href: `#/stylize/${encodeURIComponent(model)}` });
  const name = style.replaceAll("_", " ");
  const element = h("figure", { class: "picture-tile" }, frame, h("figcaption", {}, name));
  return placeOf(element, frame, async ({ blob }, signal) => {
    const response = await request(modelPath(model, `stylize?style=${encodeURIComponent(style)}`), { body: blob, signal });
    return [h("img", { src: address.of(await response.blob()), alt: `In the style ${name}` })];
  });
}

/** @param {ModelEntry} model */
function reconstructionPlace(model) {
  const body = h("div", { class: "stack" });
  const element = h("article", { class: "picture-answer" }, h("h3", {}, h("a", { href: addressOf(model) }, model.id)), body);
  return placeOf(element, body, async ({ blob }, signal) => {
    const response = await request(modelPath(model.id, "reconstruct?echo_input=true"), { body: blob, signal, accept: "application/json" });
    /** @type {{results: Reconstruction[]}} */
    const { results } = await response.json();
    const [result] = results;
    const pictures = [["Its input", result.input], ["Its reconstruction", result.image], ["Where they differ", result.error_map]];
    return [
      h("div", { class: "pair" }, pictures.map(([alt, image]) => h("img", { src: pngUrl(image), alt, title: alt }))),
      h("p", {}, `Anomaly score ${result.anomaly_score.toFixed(0)} nats`),
    ];
  });
}
