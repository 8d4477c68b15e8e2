/** The panel of a VAE: a picture in, how the model draws it, where it errs, and how strange the picture is to it. */

import { request as send } from "../api.js";
import { latest, select } from "../controls.js";
import { announce, h } from "../dom.js";
import { panel } from "../panel.js";
import { blobUrl, pngUrl, saveButton, typeHeader } from "../picture_files.js";
import { pictureInput } from "../picture_input.js";
import { samplesOf } from "../samples.js";
import { scoreScale } from "./score_scale.js";

// Garments, and digits, which are none.
const SAMPLES = [...samplesOf("fashion-mnist"), ...samplesOf("mnist").slice(0, 2)];

export function strangenessPanel({ generator, pins, signal }) {
  const invert = select({
    label: "Object",
    options: [
      { value: "auto", label: "light or dark: look at the border" },
      { value: "false", label: "light on dark" },
      { value: "true", label: "dark on light" },
    ],
    onInput: () => reconstruct(),
  });
  const input = pictureInput({ samples: SAMPLES, label: "Picture to reconstruct", onPicture: take, signal });
  const panes = { given: pane("Your picture"), input: pane("What the network sees"), image: pane("Its reconstruction"), error_map: pane("Where it errs") };
  const saver = saveButton();
  const score = h("strong", { class: "strange-score" });
  const detail = h("p", { class: "muted strange-detail" });
  const scale = scoreScale();
  const card = panel(
    {
      title: "How strange is a picture?",
      hint: "The model squeezes a picture into a few numbers and draws it again. What it cannot draw is strange to it: it has seen garments only.",
      kind: "draw-strange",
    },
    h(
      "div",
      { class: "strange-columns" },
      h("div", { class: "stack" }, input.element, fromPins(), invert.element),
      h(
        "div",
        { class: "stack" },
        h("div", { class: "strange-panes" }, Object.values(panes).map(({ element }) => element)),
        h("p", { class: "strange-line" }, "Anomaly score ", score, h("span", { class: "muted" }, " nats")),
        scale.element,
        detail,
        h("div", { class: "row" }, saver.element),
      ),
    ),
  );
  const newest = latest({ signal });
  let taken = null;
  const address = blobUrl(signal);

  function take(blob, name) {
    taken = { blob, name };
    panes.given.show(address.of(blob));
    return reconstruct();
  }

  function reconstruct() {
    if (!taken) return undefined;
    const { blob, name } = taken;
    return card.guard(() =>
      newest.run(async (newer) => {
        const path = generator.path(`reconstruct?echo_input=true&invert=${invert.value}`);
        const response = await send(path, { body: blob, signal: newer, accept: "application/json" });
        const [result] = (await response.json()).results;
        if (newer.aborted) return;
        card.show({ path, headers: typeHeader(blob), bodyFile: name });
        saver.show(blob, name);
        show(result, name);
      }),
    );
  }

  function show(result, name) {
    for (const part of ["input", "image", "error_map"]) panes[part].show(pngUrl(result[part]));
    score.textContent = result.anomaly_score.toFixed(0);
    scale.add({ name, url: pngUrl(result.input), score: result.anomaly_score });
    detail.textContent =
      `The model needs ${result.negative_elbo.toFixed(0)} nats for it: ${result.rate.toFixed(0)} for its latent and ` +
      `${result.distortion.toFixed(0)} for what the reconstruction misses. A PNG file needs ${(result.negative_elbo - result.anomaly_score).toFixed(0)}; the score is the difference.`;
    announce(`Anomaly score ${result.anomaly_score.toFixed(0)} nats.`);
  }

  function fromPins() {
    const row = h("div", { class: "strange-pins" });
    function render() {
      const buttons = pins.all.map((pin) => {
        const name = `${generator.labelName(pin.label)}, seed ${pin.seed}`;
        const image = h("img", { src: pin.url, alt: `Pinned: ${name}`, width: 40, height: 40 });
        return h("button", { type: "button", class: "sample", title: name, on: { click: () => usePin(pin) } }, image);
      });
      row.replaceChildren(...(buttons.length ? [h("span", { class: "muted" }, "or a pinned one"), ...buttons] : []));
    }
    pins.addEventListener("change", render);
    render();
    return row;
  }

  function usePin(pin) {
    const bytes = Uint8Array.from(atob(pin.url.split(",")[1]), (letter) => letter.charCodeAt(0));
    input.set(new Blob([bytes], { type: "image/png" }), `seed-${pin.seed}.png`);
  }

  /** Place all samples on the scale, in one request, and begin with the first. */
  function start() {
    return card.guard(async () => {
      const blobs = await Promise.all(SAMPLES.map(async ({ url }) => (await send(url, { signal })).blob()));
      const form = new FormData();
      blobs.forEach((blob, index) => form.append("file", blob, SAMPLES[index].name));
      const response = await send(generator.path("reconstruct?echo_input=true"), { body: form, signal, accept: "application/json" });
      const { results } = await response.json();
      results.forEach((result, index) => scale.add({ name: SAMPLES[index].name, url: pngUrl(result.input), score: result.anomaly_score }));
      if (!taken) input.set(blobs[0], SAMPLES[0].name);
    });
  }

  return { element: card.element, start };
}

function pane(caption) {
  const image = h("img", { alt: "", width: 112, height: 112, hidden: true });
  const element = h("figure", { class: "strange-pane" }, h("div", { class: "strange-frame" }, image), h("figcaption", {}, caption));
  return {
    element,
    show(url) {
      image.src = url;
      image.alt = caption;
      image.hidden = false;
    },
  };
}
