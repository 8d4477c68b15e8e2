/** The page of image classifiers: draw, or give a picture, and see what the network makes of it while you do. */

import { card, modelPath, request } from "../api.js";
import { button, latest, select, toggle } from "../controls.js";
import { pad } from "../classify/pad.js";
import { previewOf, resultView } from "../classify/result.js";
import { h, useStyle } from "../dom.js";
import { paced } from "../pacing.js";
import { pageHead } from "../page_head.js";
import { panel } from "../panel.js";
import { saveButton, typeHeader } from "../picture_files.js";
import { pictureInput } from "../picture_input.js";
import { samplesForClassifier } from "../samples.js";
import { addressOf } from "../tasks.js";
import { timingText } from "../timing.js";

export const title = "Classify";

const TOP_K = 5;
const STROKE_MILLISECONDS = 60;
const NOTHING_YET = "Draw, or choose a picture.";
const INVERTS = [
  { value: "auto", label: "decided by the service" },
  { value: "true", label: "dark on light: turn round" },
  { value: "false", label: "light on dark: as it is" },
];

export default async function page(root, { model, models, signal }) {
  const state = { name: model, manifest: null, samples: [], picture: null, isDrawing: false };
  const work = latest({ signal });
  const choosing = latest({ signal });
  const drawing = paced(sendDrawing, { milliseconds: STROKE_MILLISECONDS, signal });
  const sheet = pad({ label: "Draw here", onChange: drawing.touch });
  const explain = toggle({ label: "Activation map", onInput: again, hint: "Which parts speak for the likeliest label." });
  const invert = select({ label: "Light or dark ground", options: INVERTS, onInput: again });
  const view = resultView({ signal });
  const saver = saveButton();
  const about = h("span", {});
  const modes = { draw: modeButton("Draw", true), picture: modeButton("Picture", false) };
  const tabs = h("div", { class: "row modes", role: "group", "aria-label": "What to classify" }, modes.draw, modes.picture);
  const place = h("div", {});
  const preview = previewOf({ signal });
  let input = null;
  const given = panel({ title: "Your picture", kind: "given" }, tabs, sheet.element, place, preview.element, invert.element);
  const found = panel({ title: "What the network sees" }, view.element, h("div", { class: "row spread" }, explain.element, saver.element));

  const [{ manifest }] = await Promise.all([card(model, { signal }), useStyle("classify")]);
  if (signal.aborted) return;
  adopt(manifest);
  root.append(pageHead({ title, text: about, model, models, task: "image-classification", onChoose: use }));
  root.append(h("div", { class: "layout classify-layout" }, given.element, found.element));
  begin();

  function modeButton(label, isDrawing) {
    return button(label, () => show(isDrawing), { "aria-pressed": "false" });
  }

  function adopt(manifest) {
    Object.assign(state, { name: manifest.name, manifest });
    const { metric, value, dataset, split } = manifest.evaluation?.[0] ?? {};
    const score = metric === "accuracy" ? ` ${(value * 100).toFixed(1)} % accuracy on the ${split} set of ${dataset}.` : "";
    about.textContent = `${manifest.description}${score}`;
  }

  /** Fit the page to its model: what is drawn and pictures of one's own stay, samples and modes are the model's. */
  function begin() {
    const isGrey = state.manifest.graphs.model.inputs[0].shape.at(-1) === 1;
    const own = state.samples.some(({ name }) => name === state.picture?.name) ? null : state.picture;
    const samples = samplesForClassifier(state.name, isGrey);
    input?.stop();
    input = pictureInput({ samples, onPicture: take, label: "Picture to classify", signal });
    place.replaceChildren(input.element);
    tabs.hidden = !isGrey;
    view.reset(NOTHING_YET);
    Object.assign(state, { samples, picture: null });
    if (own) return input.set(own.blob, own.name);
    show(isGrey && (state.isDrawing || state.name === "mnist"));
    return state.isDrawing ? undefined : input.pick(samples[0]);
  }

  async function use(name) {
    await found.guard(async () => {
      work.cancel();
      const chosen = await choosing.run((newer) => card(name, { signal: newer }));
      if (!chosen) return;
      adopt(chosen.manifest);
      history.replaceState(null, "", addressOf(models.find(({ id }) => id === name)));
      begin();
    });
  }

  function show(isDrawing) {
    state.isDrawing = isDrawing;
    modes.draw.setAttribute("aria-pressed", String(isDrawing));
    modes.picture.setAttribute("aria-pressed", String(!isDrawing));
    sheet.element.hidden = !isDrawing;
    place.hidden = isDrawing;
    preview.element.hidden = isDrawing || !state.picture;
    invert.element.hidden = isDrawing || !state.manifest.light_on_dark;
    if (isDrawing) input.stop();
    again();
  }

  function take(blob, name) {
    state.picture = { blob, name };
    preview.show(blob);
    show(false);
  }

  function again() {
    if (state.isDrawing) drawing.touch();
    else if (state.picture) send(state.picture.blob, state.picture.name);
    else nothing();
  }

  function nothing() {
    work.cancel();
    view.reset(NOTHING_YET);
  }

  async function sendDrawing() {
    if (!state.isDrawing) return true;
    if (!sheet.isEmpty) {
      const blob = await sheet.blob();
      // Somebody may have gone from drawing to pictures meanwhile.
      return !state.isDrawing || send(blob, "drawing.png");
    }
    nothing();
    return true;
  }

  function path() {
    const topK = Math.min(TOP_K, state.manifest.labels.length);
    const wanted = [`top_k=${topK}`, "echo_input=true"];
    if (explain.value) wanted.push("explain=true");
    if (!invert.element.hidden && invert.value !== "auto") wanted.push(`invert=${invert.value}`);
    return modelPath(state.name, `classify?${wanted.join("&")}`);
  }

  function send(blob, name) {
    const address = path();
    return found.guard(async () => {
      found.show({ path: address, headers: typeHeader(blob), bodyFile: name });
      saver.show(blob, name);
      const shown = await work.run(async (workSignal) => {
        const response = await request(address, { body: blob, signal: workSignal });
        return { blob, answer: await response.json(), timing: timingText(response) };
      });
      if (shown) view.show(shown);
      return shown !== undefined;
    });
  }
}
