/** The panel of the text: completion while the user types, and a button that lets the model continue. */

import { json, modelPath } from "../api.js";
import { button, statusLine, toggle } from "../controls.js";
import { announce, h } from "../dom.js";
import { answerIn, panel } from "../panel.js";
import { ghostEditor } from "./ghost.js";
import { outcomeText, streamText } from "./streaming.js";
import { fitting } from "./text.js";

/** @import { Manifest } from "../types.d.ts" */
/** @import { SamplingSettings } from "../pages/write.js" */
/** @import { Measured } from "./streaming.js" */

const BEGINNING = "Once upon a time";
const BEGINNING_OF_A_NOVEL =
  "It was a dark and stormy night. The old captain took off his hat, looked at the young woman by the fire, and said";
const NUM_SUGGESTED_TOKENS = 8;
// After a space only texts that begin with one fit, which the likeliest may not.
const SAMPLED = { temperature: 0.6, n: 4, seed: 1 };
const LIKELIEST = { temperature: 0 };

/**
 * `onText` gets the text after every change.
 *
 * @param {object} options
 * @param {string} options.model
 * @param {Manifest} options.manifest
 * @param {number} options.context how many tokens the model can see
 * @param {SamplingSettings} options.settings
 * @param {AbortSignal} options.signal
 * @param {(text: string) => void} options.onText
 */
export function editingPanel({ model, manifest, context, settings, signal, onText }) {
  const status = statusLine();
  const keys = h(
    "p",
    { class: "panel-hint", id: "editor-keys" },
    ["A pause brings a suggestion: ", h("kbd", {}, "Tab"), " accepts it, ", h("kbd", {}, "Esc"), " dismisses it."],
  );
  const editor = ghostEditor({ label: "Text", describedBy: "editor-keys", suggest, onText, signal });
  const completes = toggle({ label: "Complete as I type", value: true, onInput: editor.setSuggesting });
  const run = button("Write on", () => card.guard(write), { kind: "primary" });
  const stop = button("Stop", () => running?.abort(), { disabled: true });
  const undo = button("Undo", undoWrite, { disabled: true });
  const empty = button("Clear", () => editor.set(""));
  const card = panel(
    { title: "Text", kind: "write-text" },
    editor.element,
    keys,
    h("div", { class: "write-actions" }, run, stop, undo, empty, completes.element),
    status.element,
    settings.element,
  );

  const suggestions = answerIn();
  const path = modelPath(model, "generate");
  /** @type {AbortController | null} */
  let running = null;
  /** @type {string | null} */
  let before = null;
  signal.addEventListener("abort", () => running?.abort());

  /** @param {string} text @param {AbortSignal} newer */
  function suggest(text, newer) {
    return card.guard(async () => {
      const { prompt, hasSpace } = splitSpace(text);
      const body = {
        prompt: await fitting(model, prompt, context - NUM_SUGGESTED_TOKENS - 2, newer),
        max_tokens: NUM_SUGGESTED_TOKENS,
        ...(hasSpace ? SAMPLED : LIKELIEST),
        stop: ["\n"],
      };
      /** @type {{results: {text: string}[], timing: {seconds: number}}} */
      const answer = await json(path, body, { signal: newer });
      card.show({ path, body });
      status.say(`Suggested in ${(answer.timing.seconds * 1000).toFixed(0)} ms by the service.`);
      const texts = answer.results.map((result) => result.text);
      return hasSpace ? texts.find((one) => /^ \S/.test(one))?.slice(1) : texts[0];
    }, suggestions);
  }

  async function write() {
    if (running) return;
    const { prompt } = splitSpace(editor.text());
    before = editor.text();
    editor.set(prompt);
    editor.showEnd();
    const stopped = begin();
    try {
      const values = settings.values();
      const body = { prompt: await fitting(model, prompt, context - values.max_tokens - 1, stopped), ...values };
      card.show({ path, body: { ...body, stream: true }, stream: true });
      const outcome = await streamText(model, body, { signal: stopped, onPiece });
      status.say(outcomeText(outcome));
      if (!signal.aborted) announce(`Done: ${outcomeText(outcome)}`);
    } finally {
      end();
    }
  }

  /** @param {string} text @param {Measured} measured */
  function onPiece(text, measured) {
    editor.append(text);
    status.say(`${measured.numTokens} tokens · ${measured.tokensPerSecond.toFixed(0)} tokens/s`);
  }

  function begin() {
    running = new AbortController();
    editor.setBusy(true);
    setRunning(true);
    stop.focus();
    return running.signal;
  }

  function end() {
    running = null;
    editor.setBusy(false);
    if (document.activeElement === stop) run.focus();
    setRunning(false);
    undo.disabled = false;
    onText(editor.text());
  }

  /** @param {boolean} isRunning */
  function setRunning(isRunning) {
    run.disabled = isRunning;
    stop.disabled = !isRunning;
    undo.disabled = isRunning;
    empty.disabled = isRunning;
  }

  function undoWrite() {
    if (before === null) return;
    editor.set(before);
    before = null;
    undo.disabled = true;
  }

  /** @param {string | null} text */
  function start(text) {
    const hasReadNovels = manifest.evaluation?.some(({ dataset }) => dataset === "novels");
    editor.set(text ?? (hasReadNovels ? BEGINNING_OF_A_NOVEL : BEGINNING));
    editor.setSuggesting(true);
  }

  return {
    element: card.element,
    text: editor.text,
    isWriting: () => running !== null,
    /** @param {string} text */
    append(text) {
      editor.set(editor.text() + text);
      editor.showEnd();
    },
    start,
  };
}

/**
 * A text without one space at its end: in this vocabulary a space begins the next token.
 *
 * @param {string} text
 */
function splitSpace(text) {
  const hasSpace = /\S $/.test(text);
  return { prompt: hasSpace ? text.slice(0, -1) : text, hasSpace };
}
