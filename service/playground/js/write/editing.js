/** The panel in which one writes: completion as one types, and the model writing on. */

import { json, modelPath } from "../api.js";
import { button, statusLine, toggle } from "../controls.js";
import { announce, h } from "../dom.js";
import { panel } from "../panel.js";
import { ghostEditor } from "./ghost.js";
import { fitting } from "./reading.js";
import { outcomeText, streamText } from "./streaming.js";

const BEGINNING =
  "It was a dark and stormy night. The old captain took off his hat, looked at the young woman by the fire, and said";
const SUGGESTED_TOKENS = 8;

/** `onText(text)` is told of every change; `context` is how many tokens the model can see. */
export function editingPanel({ model, context, settings, signal, onText }) {
  const status = statusLine();
  const keys = h("p", { class: "panel-hint", id: "editor-keys" });
  keys.append("A pause brings a suggestion: ", h("kbd", {}, "Tab"), " accepts it, ", h("kbd", {}, "Esc"), " dismisses it.");
  const editor = ghostEditor({ label: "Text", describedBy: "editor-keys", suggest, onText, signal });
  const completes = toggle({ label: "Complete as I type", value: true, onInput: (on) => editor.suggesting(on) });
  const writeOn = button("Write on", () => card.guard(write), { kind: "primary" });
  const stop = button("Stop", () => running?.abort(), { disabled: true });
  const undo = button("Undo", takeBack, { disabled: true });
  const empty = button("Clear", () => editor.set(""));
  const card = panel(
    { title: "Text", kind: "write-text" },
    editor.element,
    keys,
    h("div", { class: "write-actions" }, writeOn, stop, undo, empty, completes.element),
    status.element,
    settings.element,
  );

  const path = modelPath(model, "generate");
  let running = null;
  let before = null;
  signal.addEventListener("abort", () => running?.abort());

  async function suggest(text, newer) {
    return card.guard(async () => {
      const { prompt, isSpaced } = unspaced(text);
      const sampling = isSpaced ? { temperature: 0.6, n: 4, seed: 1 } : { temperature: 0 };
      const body = {
        prompt: await fitting(model, prompt, context - SUGGESTED_TOKENS - 2, newer),
        max_tokens: SUGGESTED_TOKENS,
        ...sampling,
        stop: ["\n"],
      };
      const answer = await json(path, body, { signal: newer });
      card.show({ path, body });
      status.say(`Suggested in ${(answer.timing.seconds * 1000).toFixed(0)} ms by the service.`);
      const texts = answer.results.map((result) => result.text);
      return isSpaced ? texts.find((one) => /^ \S/.test(one))?.slice(1) : texts[0];
    });
  }

  async function write() {
    if (running) return;
    const { prompt } = unspaced(editor.text());
    before = editor.text();
    editor.set(prompt);
    const stopped = begin();
    try {
      const body = { prompt, ...settings.values() };
      body.prompt = await fitting(model, prompt, context - body.max_tokens - 1, stopped);
      card.show({ path, body: { ...body, stream: true }, stream: true });
      const outcome = await streamText(model, body, { signal: stopped, onPiece });
      status.say(outcomeText(outcome));
      if (!signal.aborted) announce(`Done: ${outcomeText(outcome)}`);
    } finally {
      end();
    }
  }

  function onPiece(text, measured) {
    editor.append(text);
    status.say(`${measured.numTokens} tokens · ${measured.tokensPerSecond.toFixed(0)} tokens/s`);
  }

  function begin() {
    running = new AbortController();
    editor.busy(true);
    setRunning(true);
    stop.focus();
    return running.signal;
  }

  function end() {
    running = null;
    editor.busy(false);
    if (document.activeElement === stop) writeOn.focus();
    setRunning(false);
    undo.disabled = false;
    onText(editor.text());
  }

  function setRunning(isRunning) {
    writeOn.disabled = isRunning;
    stop.disabled = !isRunning;
    undo.disabled = isRunning;
    empty.disabled = isRunning;
  }

  function takeBack() {
    if (before === null) return;
    editor.set(before);
    before = null;
    undo.disabled = true;
  }

  return {
    element: card.element,
    text: editor.text,
    isWriting: () => running !== null,
    append: (text) => editor.set(editor.text() + text),
    start(text) {
      editor.set(text ?? BEGINNING);
      editor.suggesting(true);
    },
  };
}

/** A text without one blank at its end: in this vocabulary a blank begins the next token. */
function unspaced(text) {
  const isSpaced = /\S $/.test(text);
  return { prompt: isSpaced ? text.slice(0, -1) : text, isSpaced };
}
