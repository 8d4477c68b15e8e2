/** What a classifier answered: the likeliest labels as bars, the picture, what the network was fed, and why. */

import { bars } from "../charts.js";
import { announce, clear, h } from "../dom.js";
import { blobUrl, pngUrl } from "../picture_files.js";

const QUIET_MILLISECONDS = 900;

/** The place of an answer: `{element, show({blob, answer, timing}), reset(text)}`. */
export function resultView({ signal }) {
  const address = blobUrl(signal);
  let timer = 0;
  const head = h("p", { class: "verdict" });
  const chart = h("div", { class: "classes" });
  const given = picture("What you gave");
  const fed = picture("What the network was fed", "pixels");
  const map = picture("Where it looked", "pixels");
  const timing = h("p", { class: "status muted" });
  const element = h(
    "div",
    { class: "classify-result" },
    head,
    chart,
    h("div", { class: "pictures" }, given.element, fed.element, map.element),
    timing,
  );
  signal.addEventListener("abort", () => clearTimeout(timer));

  function reset(text) {
    clearTimeout(timer);
    address.forget();
    head.textContent = text;
    head.classList.add("muted");
    clear(chart);
    for (const each of [given, fed, map]) each.element.hidden = true;
    timing.textContent = "";
  }

  function show({ blob, answer, timing: words }) {
    clearTimeout(timer);
    const [result] = answer.results;
    const [best] = result.predictions;
    head.classList.remove("muted");
    clear(head).append(h("strong", {}, best.label), h("span", { class: "muted" }, ` ${percent(best.probability)}`));
    clear(chart).append(bars(result.predictions.map(row), { max: 1, label: "The likeliest labels" }));
    given.show(address.of(blob), "The picture that was sent");
    fed.show(pngUrl(result.input), "The picture as the network was fed it");
    if (result.explanation) {
      map.show(pngUrl(result.explanation), `The parts of the picture that speak for ${best.label}, in warm colours`);
      map.note(`for “${best.label}”`);
    } else map.element.hidden = true;
    timing.textContent = words;
    // While somebody draws, a voice that reads every change would never end.
    timer = setTimeout(() => announce(`${best.label}, ${percent(best.probability)}`), QUIET_MILLISECONDS);
  }

  return { element, show, reset };
}

function row({ label, probability }) {
  return { label, value: probability, text: percent(probability) };
}

function percent(probability) {
  const share = probability * 100;
  if (share < 0.01) return "< 0.01 %";
  return `${share.toFixed(share < 1 ? 2 : 1)} %`;
}

function picture(title, kind = "") {
  const image = h("img", { class: kind, on: { load: tell } });
  const size = h("span", { class: "muted" });
  let note = "";
  const element = h("figure", { class: "picture", hidden: true }, image, h("figcaption", {}, h("span", {}, title), size));

  function tell() {
    size.textContent = note || `${image.naturalWidth} × ${image.naturalHeight}`;
  }

  return {
    element,
    show(url, alt) {
      note = "";
      image.src = url;
      image.alt = alt;
      element.hidden = false;
    },
    note(text) {
      note = text;
    },
  };
}

/** The chosen picture, large, where there is room for it: `{element, show(blob)}`. Small ones show their pixels. */
export function previewOf({ signal }) {
  const address = blobUrl(signal);
  const image = h("img", { alt: "", on: { load: () => image.classList.toggle("pixels", image.naturalWidth < 100) } });
  return {
    element: h("div", { class: "preview", hidden: true }, image),
    show(blob) {
      image.src = address.of(blob);
    },
  };
}
