/** What the next token is drawn from: the likeliest tokens as temperature and top-p leave them. */

import { json, modelPath } from "../api.js";
import { clear, h } from "../dom.js";
import { percent, visible } from "../format.js";
import { answerIn } from "../panel.js";
import { latest } from "../scheduling.js";
import { lastTokens } from "./text.js";

/** @import { Candidate } from "../types.d.ts" */
/** @typedef {Candidate & {share: number}} Drawable `share` is the probability to be drawn; 0 where top-p cuts it off */

const PAUSE_MILLISECONDS = 500;
const NUM_ASKED = 100; // the most that the API gives
const NUM_SHOWN = 10;

/**
 * The chances of candidates, the likeliest first, under a temperature and a nucleus. `rest` is the weight of those that
 * are not known: each counts as the last that is.
 *
 * @param {Candidate[]} candidates
 * @param {{temperature: number, topP: number}} sampling
 * @returns {{drawable: Drawable[], numKept: number, isAll: boolean}}
 */
export function nucleus(candidates, { temperature, topP }) {
  const known = candidates.map(({ probability }) => probability ?? 0);
  if (temperature === 0 || known.length === 0) {
    return { drawable: candidates.map((one, index) => ({ ...one, share: index === 0 ? 1 : 0 })), numKept: Math.min(1, known.length), isAll: false };
  }
  const power = 1 / temperature;
  const weights = known.map((probability) => probability ** power);
  const last = Math.max(known.at(-1) ?? 0, Number.MIN_VALUE);
  const rest = Math.max(0, 1 - known.reduce((sum, one) => sum + one, 0)) * last ** (power - 1);
  const all = weights.reduce((sum, one) => sum + one, 0) + rest;
  let seen = 0;
  let numKept = 0;
  while (numKept < weights.length && seen < topP * all) {
    seen += weights[numKept];
    numKept += 1;
  }
  const isAll = seen < topP * all; // beyond those that are known
  const kept = isAll ? all : seen;
  return { drawable: candidates.map((one, index) => ({ ...one, share: index < numKept ? weights[index] / kept : 0 })), numKept, isAll };
}

/**
 * `read(text)` asks what may follow another text, `redraw` follows the sliders.
 *
 * @param {object} options
 * @param {string} options.model
 * @param {number} options.context
 * @param {() => {temperature: number, topP: number}} options.sampling
 * @param {AbortSignal} options.signal
 */
export function nucleusView({ model, context, sampling, signal }) {
  const list = h("ol", { class: "nucleus", "aria-label": "What the next token is drawn from" });
  const words = h("p", { class: "muted nucleus-words" });
  const element = h("div", { class: "stack nucleus-box", hidden: true }, words, list);
  const reading = latest({ debounce: PAUSE_MILLISECONDS, signal });
  const pending = answerIn(element);
  /** @type {Candidate[]} */
  let candidates = [];

  /** @param {string} text */
  async function read(text) {
    const isLatest = pending.wait();
    try {
      await reading.run(async (newer) => {
        const body = { text: await lastTokens(model, text, context - 2, newer), top_k: NUM_ASKED };
        const answer = await json(modelPath(model, "next-token"), body, { signal: newer });
        if (newer.aborted) return;
        ({ candidates } = answer);
        redraw();
      });
    } catch {
      element.hidden = true; // the panel of tokens asks the same, and says what is wrong
    }
    isLatest();
  }

  function redraw() {
    if (candidates.length === 0) return;
    const { temperature, topP } = sampling();
    const { drawable, numKept, isAll } = nucleus(candidates, { temperature, topP });
    const max = Math.max(...drawable.map(({ share }) => share));
    clear(list).append(...drawable.slice(0, NUM_SHOWN).map((one) => line(one, max)));
    words.textContent = isAll
      ? `The next token is drawn from more than ${numKept} tokens.`
      : `The next token is drawn from ${numKept === 1 ? "one token" : `${numKept} tokens`}.`;
    element.hidden = false;
  }

  return { element, read, redraw };
}

/** @param {Drawable} drawable @param {number} max */
function line({ text, share }, max) {
  const fill = h("span", { class: "candidate-fill", style: { width: `${(share / max) * 100}%` } });
  return h(
    "li",
    { class: share ? "candidate" : "candidate is-cut" },
    h("span", { class: "candidate-label" }, visible(text)),
    h("span", { class: "candidate-bar" }, fill),
    h("span", { class: "candidate-share" }, share ? percent(share) : "cut off"),
  );
}
