/** The panel in which two models continue the same text, side by side. */

import { modelCard, modelPath } from "../api.js";
import { button, select, slider, statusLine } from "../controls.js";
import { curlPanel } from "../curl.js";
import { announce, h } from "../dom.js";
import { panel } from "../panel.js";
import { isAtEnd } from "./ghost.js";
import { outcomeText, streamText } from "./streaming.js";
import { fitting } from "./text.js";

/** @import { Manifest } from "../types.d.ts" */
/** @import { Sampling, SamplingSettings } from "../pages/write.js" */
/** @import { Measured } from "./streaming.js" */

const COLD_AND_HOT = [0.2, 1.2];

/**
 * `names` are the text generators; `text()` is what they continue.
 *
 * @param {object} options
 * @param {string} options.model
 * @param {string[]} options.names
 * @param {SamplingSettings} options.settings
 * @param {() => string} options.text
 * @param {AbortSignal} options.signal
 */
export function comparePanel({ model, names, settings, text, signal }) {
  const other = names.find((name) => name !== model);
  const { temperature } = settings.sampling();
  // Two models at one temperature, or one at two.
  const temperatures = other ? [temperature, temperature] : COLD_AND_HOT;
  const columns = [model, other ?? model].map((name, index) => column(name, names, temperatures[index], signal));
  const run = button("Write both", () => card.guard(write), { kind: "primary" });
  const stop = button("Stop both", () => running?.abort(), { disabled: true });
  const card = panel(
    {
      title: "Side by side",
      hint: "Both continue the text above at the same time: two models, or one at two temperatures.",
      kind: "write-compare",
    },
    h("div", { class: "write-actions" }, run, stop),
    h("div", { class: "compare-columns" }, columns.map((one) => one.element)),
  );
  /** @type {AbortController | null} */
  let running = null;
  signal.addEventListener("abort", () => running?.abort());

  async function write() {
    if (running) return;
    const mine = new AbortController();
    running = mine;
    setRunning(true);
    try {
      const prompt = text().trimEnd();
      const values = settings.values();
      const both = columns.map((one) => one.name()).join(" and ");
      await Promise.all(columns.map((one) => one.write(prompt, values, mine.signal)));
      if (!signal.aborted) announce(`${both} are done.`);
    } finally {
      mine.abort(); // where one has failed, the other need not go on
      running = null;
      setRunning(false);
    }
  }

  /** @param {boolean} isRunning */
  function setRunning(isRunning) {
    run.disabled = isRunning;
    stop.disabled = !isRunning;
  }

  return { element: card.element };
}

/** @param {string} initial @param {string[]} names @param {number} warmth @param {AbortSignal} signal */
function column(initial, names, warmth, signal) {
  const kind = h("p", { class: "muted compare-kind" });
  const prompt = h("span", { class: "compare-prompt" });
  const written = h("span", { class: "compare-written" }, h("span", { class: "compare-none" }, "Nothing written yet."));
  const status = statusLine();
  const curl = curlPanel();
  const speed = h("span", { class: "compare-speed" }, "–");
  const choice = select({ label: "Model", options: names, value: initial, onInput: () => describe().catch(() => {}) });
  const temperature = slider({ label: "Its temperature", min: 0, max: 2, step: 0.05, value: warmth, format: (value) => value.toFixed(2) });
  const output = h("p", { class: "compare-text", tabindex: 0, role: "region" }, prompt, written);
  const element = h(
    "article",
    { class: "compare-column" },
    h("div", { class: "compare-head" }, choice.element, h("p", { class: "compare-rate" }, speed, " tokens/s")),
    kind,
    temperature.element,
    output,
    status.element,
    curl.element,
  );

  async function describe() {
    const name = choice.value;
    output.setAttribute("aria-label", `Text by ${name}`);
    const { manifest } = await modelCard(name, { signal });
    if (name === choice.value) kind.textContent = kindText(manifest);
    return manifest;
  }

  /** @param {string} text @param {Sampling} values @param {AbortSignal} stopped */
  async function write(text, values, stopped) {
    const name = choice.value;
    const context = (await describe()).language?.context ?? 0;
    const body = { prompt: await fitting(name, text, context - values.max_tokens - 1, stopped), ...values, temperature: temperature.value };
    prompt.textContent = text;
    written.textContent = "";
    output.scrollTop = output.scrollHeight;
    status.say("");
    curl.show({ path: modelPath(name, "generate"), body: { ...body, stream: true }, stream: true });
    const outcome = await streamText(name, body, { signal: stopped, onPiece });
    speed.textContent = outcome.tokensPerSecond.toFixed(0);
    status.say(outcomeText(outcome));
  }

  /** @param {string} text @param {Measured} measured */
  function onPiece(text, { tokensPerSecond }) {
    const follows = isAtEnd(output);
    written.append(text);
    speed.textContent = tokensPerSecond.toFixed(0);
    if (follows) output.scrollTop = output.scrollHeight;
  }

  describe().catch(() => {}); // without a card the column lacks a caption; writing shows what is wrong
  return { element, write, name: () => choice.value };
}

/**
 * The kind of network, its size, and how well it predicts a text that it never saw.
 *
 * @param {Manifest} manifest
 */
export function kindText({ language, training, evaluation }) {
  const isLstm = language?.states.some(({ name }) => name === "c");
  const parts = [isRecurrent(language) ? (isLstm ? "LSTM" : "recurrent network") : "Transformer"];
  const numParameters = training?.parameters;
  if (numParameters) parts.push(`${(numParameters / 1e6).toFixed(1)} M parameters`);
  const score = evaluation?.find(({ metric, split }) => metric === "bits_per_byte" && split === "test");
  if (score) parts.push(`${score.value.toFixed(3)} bits per byte on unseen ${score.dataset ?? "texts"}`);
  return parts.join(" · ");
}

/**
 * Whether a network carries what it has read in states of a fixed size, instead of looking back at every token.
 *
 * @param {Manifest["language"]} language
 */
export const isRecurrent = (language) => language?.states.every(({ length_axis: axis }) => axis === null || axis === undefined) ?? false;
