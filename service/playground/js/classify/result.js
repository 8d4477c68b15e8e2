/** The answer of a classifier: the likeliest labels as bars, the image, the network's input, and the activation map. */

import { bars } from "../charts.js";
import { announce, clear, h } from "../dom.js";
import { blobUrl, pngUrl } from "../image_files.js";

/** @import { Classification } from "../types.d.ts" */

const QUIET_MILLISECONDS = 900;
const MIN_SMOOTH_WIDTH = 100;
const NOVEL = "This looks like nothing the model was trained on";

/** @param {{signal: AbortSignal}} options */
export function resultView({ signal }) {
  const address = blobUrl(signal);
  let timer = 0;
  const verdict = h("p", { class: "verdict" });
  const warning = h("p", { class: "novel", hidden: true });
  const chart = h("div", { class: "classes" });
  const sent = figure("Your image");
  const input = figure("The network's input", "pixels");
  const map = figure("Where it looked", "pixels");
  const timing = h("p", { class: "status muted" });
  const element = h(
    "div",
    { class: "classify-result" },
    verdict,
    warning,
    chart,
    h("div", { class: "figures" }, sent.element, input.element, map.element),
    timing,
  );
  // On a phone the result is below the drawing, out of sight; this is its first line, above it.
  const brief = h("p", { class: "brief", "aria-hidden": "true" });
  signal.addEventListener("abort", () => clearTimeout(timer));

  /** @param {string} text */
  function reset(text) {
    brief.textContent = "";
    clearTimeout(timer);
    address.revoke();
    verdict.textContent = text;
    verdict.classList.add("muted");
    warning.hidden = true;
    clear(chart);
    for (const each of [sent, input, map]) each.element.hidden = true;
    timing.textContent = "";
  }

  /** @param {{blob: Blob, answer: Classification, timing: string}} shown */
  function show({ blob, answer, timing: timingText }) {
    clearTimeout(timer);
    const [result] = answer.results;
    const [best] = result.predictions;
    const rows = result.predictions.map(({ label, probability }) => ({ label, value: probability, text: percent(probability) }));
    const isNovel = result.is_novel === true;
    verdict.classList.toggle("muted", isNovel);
    // A number would look sure of something that the network cannot know.
    const sure = isNovel ? " is only the least unlikely label" : ` ${percent(best.probability)}`;
    clear(verdict).append(h("strong", {}, best.label), h("span", { class: "muted" }, sure));
    clear(brief).append(h("strong", {}, best.label), h("span", { class: "muted" }, isNovel ? " perhaps; it looks like nothing known" : sure));
    warning.hidden = !isNovel;
    if (isNovel) warning.textContent = `${NOVEL} (novelty ${result.novelty?.toFixed(2)}; of real images, 1 in 20 exceeds 1).`;
    clear(chart).append(bars(rows, { max: 1, label: "The likeliest labels" }));
    sent.show(address.of(blob), "The image that was sent");
    input.show(pngUrl(result.input), "The image as the network received it");
    if (result.explanation) {
      map.show(pngUrl(result.explanation), `The parts of the image that speak for ${best.label}, in warm colours`, `for “${best.label}”`);
    } else map.element.hidden = true;
    timing.textContent = timingText;
    // While the user draws, a voice that reads every change would never end.
    timer = setTimeout(() => announce(isNovel ? NOVEL : `${best.label}, ${percent(best.probability)}`), QUIET_MILLISECONDS);
  }

  return { element, brief, show, reset };
}

/** @param {number} probability */
function percent(probability) {
  const share = probability * 100;
  if (share < 0.01) return "< 0.01 %";
  return `${share.toFixed(share < 1 ? 2 : 1)} %`;
}

/** @param {string} title */
function figure(title, kind = "") {
  const image = h("img", { class: kind, on: { load: showNote } });
  const size = h("span", { class: "muted" });
  let note = "";
  const element = h("figure", { class: "figure", hidden: true }, image, h("figcaption", {}, h("span", {}, title), size));

  function showNote() {
    size.textContent = note || `${image.naturalWidth} × ${image.naturalHeight}`;
  }

  /**
   * Show an image; its size stands below it, or a note.
   *
   * @param {string} url
   * @param {string} alt
   */
  function show(url, alt, words = "") {
    note = words;
    image.src = url;
    image.alt = alt;
    element.hidden = false;
  }

  return { element, show };
}

/**
 * The chosen image, large; a small one shows its pixels.
 *
 * @param {{signal: AbortSignal}} options
 */
export function previewOf({ signal }) {
  const address = blobUrl(signal);
  const image = h("img", { alt: "", on: { load: showPixels } });

  function showPixels() {
    image.classList.toggle("pixels", image.naturalWidth < MIN_SMOOTH_WIDTH);
  }

  return {
    element: h("div", { class: "preview", hidden: true }, image),
    /** @param {Blob} blob */
    show(blob) {
      image.src = address.of(blob);
    },
  };
}
