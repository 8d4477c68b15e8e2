/** The page of stylizers: a photograph or a webcam in, a painting out, in one style or a blend. */

import { json, modelPath, request } from "../api.js";
import { latest, select, slider, statusLine, toggle } from "../controls.js";
import { h, useStyle } from "../dom.js";
import { pageHead } from "../page_head.js";
import { panel } from "../panel.js";
import { extensionOf, limited, saveButton, typeHeader } from "../picture_files.js";
import { pictureInput } from "../picture_input.js";
import { samplesOf } from "../samples.js";
import { compare } from "../stylize/compare.js";
import { liveView } from "../stylize/live.js";
import { pictures } from "../stylize/pictures.js";
import { styleGallery } from "../stylize/styles.js";
import { timingText } from "../timing.js";

export const title = "Stylise";

const DEBOUNCE_MILLISECONDS = 120;
const SIZES = [
  { value: "480", label: "480 pixels, quick" },
  { value: "768", label: "768 pixels" },
  { value: "1280", label: "1280 pixels" },
  { value: "0", label: "as the picture is" },
];

export default async function page(root, { model, models, signal }) {
  const [{ styles }] = await Promise.all([json(modelPath(model, "styles"), undefined, { signal }), useStyle("stylize")]);
  if (signal.aborted) return;

  let photo = null;
  const work = latest({ debounce: DEBOUNCE_MILLISECONDS, signal });
  const gallery = styleGallery({ styles, onInput: again });
  const strength = slider({ label: "Strength", min: 0, max: 100, step: 5, value: 100, format: (v) => `${v} %`, onInput: again });
  const keep = toggle({ label: "Keep the colours of the photograph", onInput: again });
  const size = select({ label: "Longest side", options: SIZES, value: "768", onInput: again });
  const view = compare({ before: "Photograph", after: "Painting" });
  const still = pictures({ signal });
  const line = statusLine();
  const download = saveButton({ verb: "Download", kind: "primary" });
  const saver = saveButton();
  const input = pictureInput({ samples: samplesOf("photos"), onPicture: take, label: "Photograph to paint", signal });
  const live = liveView({ paint: paintFrame, onStart: liveBegins, onFrame: showFrame, onEnd: again, onError: liveFails, signal });
  const files = h("div", { class: "row" }, download.element, saver.element);
  const output = panel({ title: "Painting", kind: "stylize-output" }, view.element, line.element, files);
  build();
  input.pick(samplesOf("photos")[0]);

  function build() {
    const text = models.find((each) => each.id === model)?.description ?? "";
    const source = panel({ title: "Photograph" }, input.element, h("div", { class: "source-options" }, live.element, size.element));
    const styled = panel(
      { title: "Styles", kind: "stylize-styles", hint: "A picture chooses its style alone; the sliders blend." },
      gallery.element,
      h("div", { class: "style-options" }, strength.element, keep.element),
    );
    root.append(pageHead({ title, text, model, models, task: "style-transfer" }));
    root.append(h("div", { class: "layout stylize-layout" }, source.element, output.element, styled.element));
  }

  function path() {
    const wanted = [gallery.query()];
    if (strength.value < 100) wanted.push(`strength=${strength.value / 100}`);
    if (keep.value) wanted.push("preserve_color=true");
    return modelPath(model, `stylize?${wanted.join("&")}`);
  }

  function take(blob, fileName) {
    photo = { blob, name: fileName };
    if (live.isOn) live.stop();
    else again();
  }

  /** Paint the photograph as the controls now say; the webcam's next frame follows them by itself. */
  function again() {
    size.element.hidden = live.isOn;
    if (photo && !live.isOn) output.guard(() => paintPhoto(path()));
  }

  async function paintPhoto(address) {
    line.say("Painting …");
    const painted = await work.run((workSignal) => paintStill(address, workSignal)).catch((error) => {
      line.say("");
      throw error;
    });
    if (!painted) return;
    const { result, before, after, text } = painted;
    view.show(before, after, { width: after.naturalWidth, height: after.naturalHeight });
    download.show(result, `painted.${extensionOf(result)}`);
    line.say(`${after.naturalWidth} × ${after.naturalHeight} pixels. ${text}`, { aloud: true });
  }

  async function paintStill(address, workSignal) {
    const sent = await limited(photo.blob, photo.name, Number(size.value));
    saver.show(sent.blob, sent.name);
    const file = { bodyFile: sent.name, output: `painted.${extensionOf(sent.blob)}` };
    output.show({ path: address, headers: typeHeader(sent.blob), ...file });
    const response = await request(address, { body: sent.blob, signal: workSignal });
    const result = await response.blob();
    const [before, after] = await still.load(sent.blob, result, workSignal);
    return { result, before, after, text: timingText(response) };
  }

  function liveBegins() {
    work.cancel();
    input.stop();
    size.element.hidden = true;
    output.guard(() => {}); // the error of a photograph is over
  }

  function liveFails(error) {
    size.element.hidden = false;
    line.say("");
    output.guard(() => Promise.reject(error));
  }

  function paintFrame(blob, frameSignal) {
    return output.guard(async () => {
      const address = path();
      output.show({ path: address, headers: typeHeader(blob), bodyFile: "frame.jpg", output: "painted.jpg" });
      saver.show(blob, "frame.jpg");
      const response = await request(address, { body: blob, signal: frameSignal });
      const painted = await response.blob();
      download.show(painted, "painted.jpg");
      return painted;
    });
  }

  function showFrame({ video, canvas, text }) {
    view.show(video, canvas, canvas);
    line.say(text);
  }
}
