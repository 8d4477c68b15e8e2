/** The page of text generators: write with one, see how it reads, and compare two. */

import { keepInAddress, linked, settingsInAddress } from "../address.js";
import { modelCard, parseSeed, randomSeed } from "../api.js";
import { button, field, slider } from "../controls.js";
import { h, useStyle } from "../dom.js";
import { pageHead } from "../panel.js";
import { modelsOf } from "../tasks.js";
import { attentionPanel } from "../write/attention.js";
import { chatPanel } from "../write/chat.js";
import { comparePanel, kindText } from "../write/compare.js";
import { editingPanel } from "../write/editing.js";
import { jsonMode } from "../write/json_mode.js";
import { nucleusView } from "../write/nucleus.js";
import { tokensPanel } from "../write/tokens.js";

/** @import { PageContext } from "../types.d.ts" */
/** @typedef {{max_tokens: number, temperature: number, top_p: number, seed?: number | string}} Sampling */
/** @typedef {ReturnType<typeof samplingSettings>} SamplingSettings */

export const title = "Write";

const TASK = "text-generation";
const CAVEAT = "It repeats what its training texts say, and how they say it.";

// The text stays when the user goes to another model and back.
/** @type {string | null} */
let draft = null;

/** @param {HTMLElement} root @param {PageContext} options */
export default async function page(root, { model, models, signal }) {
  const [{ manifest }] = await Promise.all([modelCard(model, { signal }), useStyle("write")]);
  if (signal.aborted) return;
  if (!manifest.language) throw new Error(`The card of ${model} does not describe a language model.`);

  const { context } = manifest.language;
  const settings = samplingSettings({ context, onInput: () => drawn.redraw(), signal });
  const drawn = nucleusView({ model, context, sampling: settings.sampling, signal });
  const names = modelsOf(models, TASK).map(({ id }) => id);
  const tokens = tokensPanel({ model, context, signal, onPick: (text) => editing.append(text) });
  const attention = attentionPanel({ model, manifest, signal });
  const editing = editingPanel({ model, manifest, context, settings, signal, onText: changed });

  let hasBegun = false;

  /** @param {string} text */
  function changed(text) {
    draft = text;
    if (hasBegun) keepInAddress({ text });
    if (editing.isWriting()) return; // a text that grows is read once it is complete
    tokens.read(text);
    attention.read(text);
    drawn.read(text);
  }

  root.append(
    pageHead({ title, text: `${kindText(manifest)}. ${CAVEAT}`, model, models, task: TASK }),
    h(
      "div",
      { class: "write-page" },
      manifest.chat_template ? chatPanel({ model, settings, signal }).element : null,
      h("div", { class: "layout" }, editing.element, tokens.element),
      attention.element,
      comparePanel({ model, names, settings, text: editing.text, signal }).element,
    ),
  );
  settings.element.append(drawn.element);
  editing.start(settingsInAddress().get("text") ?? draft);
  hasBegun = true;
}

/**
 * How tokens are sampled: temperature, top-p, seed and length, shared by all that generates on the page.
 *
 * @param {object} options
 * @param {number} options.context how many tokens the model can see
 * @param {() => void} options.onInput follows temperature and top-p
 * @param {AbortSignal} options.signal
 */
function samplingSettings({ context, onInput, signal }) {
  const temperature = slider({
    label: "Temperature",
    min: 0,
    max: 2,
    step: 0.05,
    value: 0.8,
    onInput,
    format: (value) => (value === 0 ? "0 (likeliest)" : value.toFixed(2)),
  });
  const topP = slider({ label: "Top-p", min: 0.05, max: 1, step: 0.05, value: 0.95, onInput, format: (value) => value.toFixed(2) });
  const length = slider({
    label: "Length",
    min: 8,
    max: Math.min(256, context >> 1),
    step: 8,
    value: Math.min(96, context >> 1),
    format: (value) => `${value} tokens`,
  });
  const seed = field({ label: "Seed", value: "11", inputMode: "numeric", placeholder: "random", hint: "The same seed gives the same text." });
  const another = button("New seed", renew, { kind: "small" });
  const keep = linked({ temperature, top_p: topP, length, seed });

  function renew() {
    seed.set(String(randomSeed()));
    keep();
  }

  const held = jsonMode({ signal });
  const element = h(
    "div",
    { class: "write-settings" },
    temperature.element,
    topP.element,
    length.element,
    h("div", { class: "write-seed" }, seed.element, another),
    held.element,
  );

  /** @returns {Sampling} the members of a request */
  function values() {
    const members = { max_tokens: length.value, temperature: temperature.value, top_p: topP.value, ...held.values() };
    return seed.value.trim() === "" ? members : { ...members, seed: parseSeed(seed.value) };
  }

  const sampling = () => ({ temperature: temperature.value, topP: topP.value });
  return { element, values, sampling };
}
