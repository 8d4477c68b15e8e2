/** The page of image classifiers: draw, or give an image, and see the answer change as you do. */

import { modelCard, modelPath, request } from "../api.js";
import { pad } from "../classify/pad.js";
import { previewOf, resultView } from "../classify/result.js";
import { button, select, toggle } from "../controls.js";
import { h, useStyle } from "../dom.js";
import { timingText } from "../format.js";
import { saveButton, typeHeader } from "../image_files.js";
import { imageInput, sampleFolder, samplesForClassifier } from "../image_input.js";
import { pageHead, panel } from "../panel.js";
import { latest, paced } from "../scheduling.js";
import { addressOf } from "../tasks.js";

/** @import { Manifest, NamedBlob, PageContext, SampleImage } from "../types.d.ts" */

export const title = "Classify";

const TASK = "image-classification";
const TOP_K = 5;
const STROKE_MILLISECONDS = 60;
const NOTHING_YET = "Draw, or choose an image.";
const NO_ANSWER = "No answer: the reason stands below.";
const INVERTS = [
  { value: "auto", label: "let the service decide" },
  { value: "true", label: "dark on light: invert" },
  { value: "false", label: "light on dark: keep" },
];

/** @param {HTMLElement} root @param {PageContext} context */
export default async function page(root, { model, models, signal }) {
  const [{ manifest }] = await Promise.all([modelCard(model, { signal }), useStyle("classify")]);
  if (signal.aborted) return;

  const state = {
    name: model,
    manifest,
    /** @type {SampleImage[]} */
    samples: [],
    /** @type {NamedBlob | null} */
    image: null,
    isDrawing: false,
  };
  const work = latest({ signal });
  const choosing = latest({ signal });
  const drawing = paced(sendDrawing, { milliseconds: STROKE_MILLISECONDS, signal });
  const sheet = pad({ label: "Draw here", onChange: drawing.touch, onSettle: drawing.flush });
  const explain = toggle({ label: "Activation map", onInput: refresh, hint: "Which parts speak for the likeliest label." });
  const invert = select({ label: "Light or dark ground", options: INVERTS, onInput: refresh });
  const view = resultView({ signal });
  const saver = saveButton();
  const about = h("span");
  const modes = { draw: modeButton("Draw", true), image: modeButton("Image", false) };
  const tabs = h("div", { class: "row modes", role: "group", "aria-label": "What to classify" }, modes.draw, modes.image);
  const place = h("div");
  const preview = previewOf({ signal });
  const input = panel({ title: "Your image", kind: "given" }, tabs, view.brief, sheet.element, place, preview.element, invert.element);
  const output = panel({ title: "What the network sees", answer: [view.element, view.brief] }, view.element, h("div", { class: "row spread" }, explain.element, saver.element));
  /** @type {ReturnType<typeof imageInput> | null} */
  let chooser = null;

  adopt(manifest);
  root.append(pageHead({ title, text: about, model, models, task: TASK, onChoose: use }));
  root.append(h("div", { class: "layout classify-layout" }, input.element, output.element));
  begin();

  /** @param {string} label @param {boolean} isDrawing */
  function modeButton(label, isDrawing) {
    return button(label, () => show(isDrawing), { "aria-pressed": "false" });
  }

  /** @param {Manifest} next */
  function adopt(next) {
    Object.assign(state, { name: next.name, manifest: next });
    const evaluation = next.evaluation?.[0];
    const isAccuracy = evaluation?.metric === "accuracy";
    const score = isAccuracy ? ` ${(evaluation.value * 100).toFixed(1)} % accuracy on the ${evaluation.split} set of ${evaluation.dataset}.` : "";
    about.textContent = `${next.description}${score}`;
    explain.element.hidden = !next.graphs.model.outputs.some(({ name }) => name === "activation_map");
  }

  /** Fit the page to its model: the drawing and the user's own image stay, samples and modes are the model's. */
  function begin() {
    const isGrey = state.manifest.graphs.model.inputs[0].shape.at(-1) === 1;
    const own = state.samples.some(({ name }) => name === state.image?.name) ? null : state.image;
    const samples = samplesForClassifier(state.manifest, isGrey);
    const next = imageInput({ samples, onImage: take, label: "Image to classify", signal });
    chooser?.stop();
    chooser = next;
    place.replaceChildren(next.element);
    Object.assign(state, { samples, image: null });
    tabs.hidden = !isGrey;
    view.reset(NOTHING_YET);
    if (own) return next.set(own.blob, own.name);
    const isDrawable = sampleFolder(state.manifest) === "mnist" || samples.length === 0;
    show(isGrey && (state.isDrawing || isDrawable));
    return state.isDrawing || samples.length === 0 ? undefined : next.pick(samples[0]);
  }

  /** @param {string} name */
  async function use(name) {
    await output.guard(async () => {
      work.cancel();
      const card = await choosing.run((newer) => modelCard(name, { signal: newer }));
      if (!card) return;
      adopt(card.manifest);
      history.replaceState(null, "", addressOf({ id: name, task: TASK }));
      begin();
    });
  }

  /** @param {boolean} isDrawing */
  function show(isDrawing) {
    state.isDrawing = isDrawing;
    modes.draw.setAttribute("aria-pressed", String(isDrawing));
    modes.image.setAttribute("aria-pressed", String(!isDrawing));
    sheet.element.hidden = !isDrawing;
    place.hidden = isDrawing;
    preview.element.hidden = isDrawing || !state.image;
    invert.element.hidden = isDrawing || !state.manifest.light_on_dark;
    if (isDrawing) chooser?.stop();
    refresh();
  }

  /** @param {Blob} blob @param {string} name */
  function take(blob, name) {
    state.image = { blob, name };
    preview.show(blob);
    show(false);
  }

  function refresh() {
    const { image } = state;
    if (state.isDrawing) drawing.flush();
    else if (image) send(() => Promise.resolve(image.blob), image.name);
    else reset();
  }

  /** At once, with whatever error the last image had. */
  function reset() {
    work.cancel();
    output.errors.hide();
    view.reset(NOTHING_YET);
  }

  async function sendDrawing() {
    if (!state.isDrawing) return;
    if (sheet.isEmpty) reset();
    else await send(sheet.blob, "drawing.png");
  }

  function path() {
    const topK = Math.min(TOP_K, state.manifest.labels?.length ?? TOP_K);
    const query = [`top_k=${topK}`, "echo_input=true"];
    if (explain.value && !explain.element.hidden) query.push("explain=true");
    if (!invert.element.hidden && invert.value !== "auto") query.push(`invert=${invert.value}`);
    return modelPath(state.name, `classify?${query.join("&")}`);
  }

  /** @param {() => Promise<Blob>} encoded the image, which takes its time to be encoded @param {string} name */
  function send(encoded, name) {
    const address = path();
    return output.guard(async () => {
      const shown = await work.run(async (newer) => {
        const blob = await encoded();
        if (newer.aborted) return undefined;
        output.show({ path: address, headers: typeHeader(blob), bodyFile: name });
        saver.show(blob, name);
        const response = await request(address, { body: blob, signal: newer });
        return { blob, answer: await response.json(), timing: timingText(response) };
      }).catch((error) => {
        view.reset("");
        view.brief.textContent = NO_ANSWER;
        throw error;
      });
      if (shown) view.show(shown);
    });
  }
}
