/** The page of correctors: a text without its slips as one types, and where the network looked as it wrote. */

import { keepInAddress, settingsInAddress } from "../address.js";
import { modelCard, modelPath, request } from "../api.js";
import { button } from "../controls.js";
import { alignmentPanel } from "../correct/alignment.js";
import { changesOf } from "../correct/changes.js";
import { clear, h, uniqueId, useStyle } from "../dom.js";
import { timingText } from "../format.js";
import { pageHead, panel } from "../panel.js";
import { latest } from "../scheduling.js";

/** @import { CorrectAnswer, PageContext } from "../types.d.ts" */
/** @import { Change } from "../correct/changes.js" */

export const title = "Correct";

const TASK = "text-correction";
const PAUSE_MILLISECONDS = 200;
const MAX_LISTED = 100;
const EXAMPLES = [
  "It was teh best of tmies and it was the worst of times. He walkd slowly down the street, and his freind said nothng.",
  "Teh captain lookd at the sea. There was somthing strange in the watre, and he coud not say waht it was.",
  "He was a vrey quiet man, and his wfie was a very beautifull woman. They wnet to the village togther on Sunday.",
];

// The text stays when the user goes to another model and back.
/** @type {string | null} */
let draft = null;

/** @param {HTMLElement} root @param {PageContext} options */
export default async function page(root, { model, models, signal }) {
  const [{ manifest }] = await Promise.all([modelCard(model, { signal }), useStyle("correct")]);
  if (signal.aborted) return;

  const id = uniqueId("misspelt");
  const area = h("textarea", { id, rows: 8, spellcheck: false, on: { input: typed } });
  const source = panel(
    { title: "Text", hint: "Write as fast as you like: slips are corrected as you type." },
    h("label", { class: "visually-hidden", for: id }, "Text to correct"),
    area,
    h("div", { class: "row" }, button("Another example", another), button("Clear", () => set(""))),
  );
  const corrected = correctedPanel({ model, signal });
  const alignment = alignmentPanel({ model, signal });
  let example = 0;

  /** @param {string} text */
  function set(text) {
    area.value = text;
    typed();
  }

  function another() {
    example = (example + 1) % EXAMPLES.length;
    set(EXAMPLES[example]);
  }

  function typed() {
    draft = area.value;
    keepInAddress({ text: draft });
    read();
  }

  function read() {
    corrected.read(area.value);
    alignment.read(area.value);
  }

  root.append(
    pageHead({ title, text: manifest.description, model, models, task: TASK }),
    h("div", { class: "correct-page" }, h("div", { class: "layout" }, source.element, corrected.element), alignment.element),
  );
  area.value = settingsInAddress().get("text") ?? draft ?? EXAMPLES[0];
  read();
}

/**
 * The panel of the corrected text; `read(text)` shows another.
 *
 * @param {{model: string, signal: AbortSignal}} options
 */
function correctedPanel({ model, signal }) {
  const shown = h("div", { class: "corrected", tabindex: 0, role: "region", "aria-label": "Corrected text" });
  const status = h("p", { class: "status muted", "aria-live": "polite" });
  const list = h("ul", { class: "changes", "aria-label": "Changes" });
  const answer = h("div", { class: "stack" }, shown, status, list);
  const card = panel({ title: "Corrected", answer: [answer] }, answer);
  const path = modelPath(model, "correct");
  const reading = latest({ debounce: PAUSE_MILLISECONDS, signal });

  /** @param {string} text */
  function read(text) {
    return card.guard(() =>
      reading.run(async (newer) => {
        const body = { text };
        card.show({ path, body });
        const response = await request(path, { body, signal: newer, accept: "application/json" });
        /** @type {CorrectAnswer} */
        const { results } = await response.json();
        if (!newer.aborted) render(text, results[0].text, timingText(response));
      }),
    );
  }

  /** @param {string} text @param {string} right @param {string} timing */
  function render(text, right, timing) {
    const changes = changesOf(text, right);
    clear(shown).append(...marked(right, changes));
    const count = changes.length === 1 ? "1 change" : `${changes.length || "No"} changes`;
    status.textContent = text.trim() ? `${count} · ${timing}` : "";
    clear(list).append(...changes.slice(0, MAX_LISTED).map(item));
    if (changes.length > MAX_LISTED) list.append(h("li", { class: "muted" }, `and ${changes.length - MAX_LISTED} more`));
  }

  return { element: card.element, read };
}

/** The corrected text with its changed words marked. @param {string} text @param {Change[]} changes */
function marked(text, changes) {
  let end = 0;
  const parts = changes.flatMap((change) => {
    const before = text.slice(end, change.start);
    ({ end } = change);
    return [before, change.text ? h("mark", { title: `was: ${change.source || "nothing"}` }, change.text) : ""];
  });
  return [...parts, text.slice(end)];
}

/** @param {Change} change */
function item({ source, text }) {
  return h("li", {}, h("del", {}, source || "∅"), h("span", { "aria-label": "became", role: "img" }, " → "), h("ins", {}, text || "∅"));
}
