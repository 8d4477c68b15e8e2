/** The page of style transfer: a photograph or a webcam in, a painting out, in one style or a blend. */

import { keepInAddress, linked, settingsInAddress } from "../address.js";
import { json, modelPath, request } from "../api.js";
import { select, slider, statusLine, toggle } from "../controls.js";
import { h, useStyle } from "../dom.js";
import { timingText } from "../format.js";
import { extensionOf, saveButton, shrunk, typeHeader } from "../image_files.js";
import { imageInput, samplesOf } from "../image_input.js";
import { pageHead, panel } from "../panel.js";
import { latest } from "../scheduling.js";
import { compare, imageLoader } from "../stylize/compare.js";
import { styleGallery } from "../stylize/styles.js";
import { webcam } from "../stylize/webcam.js";

/** @import { NamedBlob, PageContext, Style } from "../types.d.ts" */
/** @import { Views } from "../stylize/webcam.js" */

export const title = "Stylise";

const DEBOUNCE_MILLISECONDS = 120;
const SIZES = [
  { value: "480", label: "480 pixels, quick" },
  { value: "768", label: "768 pixels" },
  { value: "1280", label: "1280 pixels" },
  { value: "0", label: "as the photograph" },
];

/** @param {HTMLElement} root @param {PageContext} context */
export default async function page(root, { model, models, signal }) {
  /** @type {[{styles: Style[]}, void]} */
  const [{ styles }] = await Promise.all([json(modelPath(model, "styles"), undefined, { signal }), useStyle("stylize")]);
  if (signal.aborted) return;

  const samples = samplesOf("photos");
  /** @type {NamedBlob | null} */
  let photo = null;
  const work = latest({ debounce: DEBOUNCE_MILLISECONDS, signal });
  const gallery = styleGallery({ styles, onInput: refresh });
  const strength = slider({ label: "Strength", min: 0, max: 100, step: 5, value: 100, format: (v) => `${v} %`, onInput: refresh });
  const keep = toggle({ label: "Keep the colours of the photograph", onInput: refresh });
  const size = select({ label: "Longest side", options: SIZES, value: "768", onInput: refresh });
  const view = compare({ before: "Photograph", after: "Painting" });
  const loader = imageLoader({ signal });
  const status = statusLine();
  const download = saveButton({ verb: "Download", kind: "primary" });
  const saver = saveButton();
  const input = imageInput({ samples, onImage: take, label: "Photograph to paint", signal });
  const live = webcam({ paint: paintFrame, onStart: liveStarted, onFrame: showFrame, onStop: refresh, onError: liveFailed, signal });
  const files = h("div", { class: "row" }, download.element, saver.element);
  const answer = [view.element, status.element, download.element];
  const output = panel({ title: "Painting", kind: "stylize-output", answer }, view.element, status.element, files);
  build();
  linked({ strength, colors: keep });
  const wanted = settingsInAddress().get("sample");
  input.pick(samples.find(({ name }) => name === wanted) ?? samples[0]);

  function build() {
    const text = models.find((each) => each.id === model)?.description ?? "";
    const source = panel({ title: "Photograph" }, input.element, h("div", { class: "source-options" }, live.element, size.element));
    const styled = panel(
      { title: "Styles", kind: "stylize-styles", hint: "An image chooses its style alone; the sliders blend." },
      gallery.element,
      h("div", { class: "style-options" }, strength.element, keep.element),
    );
    root.append(pageHead({ title, text, model, models, task: "style-transfer" }));
    root.append(h("div", { class: "layout stylize-layout" }, source.element, output.element, styled.element));
  }

  /** Of the user's own pictures the address says nothing: they stay in the browser. */
  function sampleName() {
    return samples.slice(1).find(({ name }) => name === photo?.name)?.name;
  }

  function path() {
    const query = [gallery.query()];
    if (strength.value < 100) query.push(`strength=${strength.value / 100}`);
    if (keep.value) query.push("preserve_color=true");
    return modelPath(model, `stylize?${query.join("&")}`);
  }

  /** @param {Blob} blob @param {string} name */
  function take(blob, name) {
    photo = { blob, name };
    if (live.isOn) live.stop();
    else refresh();
  }

  /** Paint the photograph as the controls now say; the webcam's next frame follows them by itself. */
  function refresh() {
    size.element.hidden = live.isOn;
    keepInAddress({ styles: gallery.kept(), sample: sampleName() });
    const source = photo;
    if (source && !live.isOn) output.guard(() => paintPhoto(source, path()));
  }

  /** @param {NamedBlob} source @param {string} address */
  async function paintPhoto(source, address) {
    status.say("Painting …");
    const painted = await work.run((newer) => fetchPainting(source, address, newer)).catch((error) => {
      status.say("");
      throw error;
    });
    if (!painted) return;
    const { result, before, after, text } = painted;
    view.show(before, after, { width: after.naturalWidth, height: after.naturalHeight });
    download.show(result, `painted.${extensionOf(result)}`);
    status.say(`${after.naturalWidth} × ${after.naturalHeight} pixels. ${text}`, { isAnnounced: true });
  }

  /** @param {NamedBlob} source @param {string} address @param {AbortSignal} newer */
  async function fetchPainting(source, address, newer) {
    const { blob, name } = await shrunk(source, Number(size.value));
    newer.throwIfAborted();
    saver.show(blob, name);
    output.show({ path: address, headers: typeHeader(blob), bodyFile: name, output: `painted.${extensionOf(blob)}` });
    const response = await request(address, { body: blob, signal: newer });
    const result = await response.blob();
    const [before, after] = await loader.load(blob, result, newer);
    return { result, before, after, text: timingText(response) };
  }

  function liveStarted() {
    work.cancel();
    input.stop();
    size.element.hidden = true;
    output.errors.hide();
  }

  /** @param {unknown} error */
  function liveFailed(error) {
    size.element.hidden = false;
    status.say("");
    output.errors.show(error);
  }

  /** @param {Blob} blob @param {AbortSignal} frameSignal */
  async function paintFrame(blob, frameSignal) {
    // Not guarded as an answer that is awaited: the next frame always is.
    try {
      const address = path();
      output.show({ path: address, headers: typeHeader(blob), bodyFile: "frame.jpg", output: "painted.jpg" });
      saver.show(blob, "frame.jpg");
      const response = await request(address, { body: blob, signal: frameSignal });
      const painted = await response.blob();
      download.show(painted, "painted.jpg");
      output.errors.hide();
      return painted;
    } catch (error) {
      output.errors.show(error);
      return undefined;
    }
  }

  /** @param {Views} views @param {string} rate */
  function showFrame({ video, canvas }, rate) {
    view.show(video, canvas, canvas);
    status.say(rate);
  }
}
