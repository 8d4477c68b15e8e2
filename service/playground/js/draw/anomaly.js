/** The panel of a VAE: an image in, its reconstruction, where they differ, and the anomaly score on a scale. */

import { request as send } from "../api.js";
import { select } from "../controls.js";
import { announce, h } from "../dom.js";
import { blobOfUrl, blobUrl, pngUrl, saveButton, typeHeader } from "../image_files.js";
import { imageInput, sampleFolder, samplesOf } from "../image_input.js";
import { panel } from "../panel.js";
import { latest } from "../scheduling.js";

/** @import { NamedBlob, Reconstruction, SeededImage } from "../types.d.ts" */
/** @import { Shared } from "./generator.js" */
/** @typedef {{name: string, url: string, score: number}} Score */

const NUM_STRANGERS = 2;
const MAX_SCORES = 10;
const MIN_SPAN_NATS = 200;

/**
 * Images like those that the model knows, and two of what it has never seen.
 *
 * @param {Shared["generator"]} generator
 */
function samplesFor(generator) {
  const known = sampleFolder({ labels: generator.knownLabels }) ?? (generator.isGrey ? "fashion-mnist" : "cifar10");
  const strange = generator.isGrey ? (known === "mnist" ? "fashion-mnist" : "mnist") : "photos";
  return [...samplesOf(known), ...samplesOf(strange).slice(0, NUM_STRANGERS)];
}

/** @param {Shared} shared */
export function anomalyPanel({ generator, pins, signal }) {
  const samples = samplesFor(generator);
  const invert = select({
    label: "Object",
    options: [
      { value: "auto", label: "light or dark: look at the border" },
      { value: "false", label: "light on dark" },
      { value: "true", label: "dark on light" },
    ],
    onInput: () => reconstruct(),
  });
  const input = imageInput({ samples, label: "Image to reconstruct", onImage: take, signal });
  const sent = pane("Your image");
  const panes = { input: pane("The model's input"), image: pane("Its reconstruction"), error_map: pane("Where they differ") };
  const saver = saveButton();
  const score = h("strong", { class: "anomaly-score" });
  const detail = h("p", { class: "muted anomaly-detail" });
  const scale = scoreScale();
  const answer = [
    h("div", { class: "anomaly-panes" }, [sent, ...Object.values(panes)].map(({ element }) => element)),
    h("p", { class: "anomaly-line" }, "Anomaly score ", score, h("span", { class: "muted" }, " nats")),
    scale.element,
    detail,
  ];
  const card = panel(
    {
      title: "Anomaly score",
      hint: "The model compresses an image into a few numbers and draws it again. It knows only what it was trained on: what it draws badly is an anomaly to it.",
      kind: "draw-anomaly",
      answer,
    },
    h(
      "div",
      { class: "anomaly-columns" },
      h("div", { class: "stack" }, input.element, fromPins(), invert.element),
      h(
        "div",
        { class: "stack" },
        answer,
        h("div", { class: "row" }, saver.element),
      ),
    ),
  );
  const newest = latest({ signal });
  const address = blobUrl(signal);
  /** @type {NamedBlob | null} */
  let taken = null;

  /** @param {Blob} blob @param {string} name */
  function take(blob, name) {
    taken = { blob, name };
    sent.show(address.of(blob));
    return reconstruct();
  }

  function reconstruct() {
    if (!taken) return undefined;
    const { blob, name } = taken;
    return card.guard(() =>
      newest.run(async (newer) => {
        const path = generator.path(`reconstruct?echo_input=true&invert=${invert.value}`);
        const [result] = await post(path, blob, newer);
        if (newer.aborted) return;
        card.show({ path, headers: typeHeader(blob), bodyFile: name });
        saver.show(blob, name);
        show(result, name);
      }),
    );
  }

  /** @param {string} path @param {Blob | FormData} body @param {AbortSignal} newer @returns {Promise<Reconstruction[]>} */
  async function post(path, body, newer) {
    const response = await send(path, { body, signal: newer, accept: "application/json" });
    return (await response.json()).results;
  }

  /** @param {Reconstruction} result @param {string} name */
  function show(result, name) {
    const { anomaly_score, negative_elbo, rate, distortion } = result;
    panes.input.show(pngUrl(result.input));
    panes.image.show(pngUrl(result.image));
    panes.error_map.show(pngUrl(result.error_map));
    score.textContent = anomaly_score.toFixed(0);
    scale.add({ name, url: pngUrl(result.input), score: anomaly_score });
    detail.textContent =
      `The model needs ${negative_elbo.toFixed(0)} nats for it: ${rate.toFixed(0)} for its latent and ${distortion.toFixed(0)} for what ` +
      `the reconstruction misses. A PNG file needs ${(negative_elbo - anomaly_score).toFixed(0)}; the score is the difference.`;
    announce(`Anomaly score ${anomaly_score.toFixed(0)} nats.`);
  }

  function fromPins() {
    const row = h("div", { class: "anomaly-pins" });
    function render() {
      const buttons = pins.all.map((pin) => {
        const name = generator.nameOf(pin);
        const image = h("img", { src: pin.url, alt: `Pinned: ${name}`, width: 40, height: 40 });
        return h("button", { type: "button", class: "sample", title: name, on: { click: () => usePin(pin) } }, image);
      });
      row.replaceChildren(...(buttons.length ? [h("span", { class: "muted" }, "or a pinned one"), ...buttons] : []));
    }
    pins.addEventListener("change", render);
    render();
    return row;
  }

  /** @param {SeededImage} pin */
  function usePin(pin) {
    input.set(blobOfUrl(pin.url), `seed-${pin.seed}.png`);
  }

  /** Score all samples in one request, and show the first. */
  function start() {
    return card.guard(async () => {
      const blobs = await Promise.all(samples.map(async ({ url }) => (await send(url, { signal })).blob()));
      const form = new FormData();
      blobs.forEach((blob, index) => form.append("file", blob, samples[index].name));
      const results = await post(generator.path("reconstruct?echo_input=true"), form, signal);
      results.forEach((result, index) => scale.add({ name: samples[index].name, url: pngUrl(result.input), score: result.anomaly_score }));
      if (!taken) input.set(blobs[0], samples[0].name);
    });
  }

  return { element: card.element, start };
}

/** @param {string} caption */
function pane(caption) {
  const image = h("img", { alt: "", width: 112, height: 112, hidden: true });
  const element = h("figure", { class: "anomaly-pane" }, h("div", { class: "anomaly-frame" }, image), h("figcaption", {}, caption));
  return {
    element,
    /** @param {string} url */
    show(url) {
      image.src = url;
      image.alt = caption;
      image.hidden = false;
    },
  };
}

/** The latest scores on one line, the newest on top, so that a number means something beside others. */
function scoreScale() {
  const list = h("ul", { class: "scale-line", "aria-label": "Scores so far" });
  const ends = h("div", { class: "scale-ends muted" });
  const element = h("div", { class: "scale" }, list, ends);
  /** @type {Score[]} */
  let entries = [];

  /** @param {Score} entry */
  function add(entry) {
    entries = [...entries.filter(({ url }) => url !== entry.url), entry].slice(-MAX_SCORES);
    const scores = entries.map(({ score }) => score);
    const [low, high] = [Math.min(...scores), Math.max(...scores)];
    const span = Math.max(MIN_SPAN_NATS, high - low);
    const start = (low + high) / 2 - span / 2;
    list.replaceChildren(...entries.map((one, index) => mark(one, (one.score - start) / span, index === entries.length - 1)));
    ends.replaceChildren(h("span", {}, "← like the training data"), h("span", {}, "anomalous →"));
  }

  return { element, add };
}

/** @param {Score} entry @param {number} share @param {boolean} isNewest */
function mark({ name, url, score }, share, isNewest) {
  const words = `${name}: ${score.toFixed(0)} nats`;
  return h(
    "li",
    { class: isNewest ? "scale-mark is-newest" : "scale-mark", title: words, style: { "--share": share.toFixed(4) } },
    h("img", { src: url, alt: words, width: 32, height: 32 }),
  );
}
