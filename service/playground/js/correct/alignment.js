/** The panel of the alignment: from which characters of a sentence each character of its correction was read. */

import { json, modelPath } from "../api.js";
import { select, setOptions } from "../controls.js";
import { h, uniqueId } from "../dom.js";
import { percent, visible } from "../format.js";
import { panel } from "../panel.js";
import { latest } from "../scheduling.js";
import { heatMap } from "./heat_map.js";

/** @import { Alignment, CorrectAnswer } from "../types.d.ts" */
/** @import { Cell } from "./heat_map.js" */
/**
 * A sentence by its characters; `peaks` are those that each written one was read from most.
 *
 * @typedef {{read: string[], written: string[], weights: number[][], peaks: number[]}} Reading
 */

const PAUSE_MILLISECONDS = 400;
const MAX_LABEL = 60;
const NUM_DESCRIBED = 6;
const EMPTY = "There is nothing to read yet.";

/**
 * `read(text)` shows another text.
 *
 * @param {{model: string, signal: AbortSignal}} options
 */
export function alignmentPanel({ model, signal }) {
  const id = uniqueId("alignment");
  const sentence = select({ label: "Sentence", options: [], onInput: () => show(Number(sentence.value)) });
  const map = heatMap({ label: "Alignment of the characters", describedBy: id, onRead: describe });
  const cell = h("p", { class: "heat-read", "aria-live": "polite" });
  const summary = h("p", { class: "muted", id });
  const answer = h("div", { class: "stack" }, sentence.element, map.element, cell, summary);
  const card = panel(
    {
      title: "Alignment",
      hint: "Down the side stands what was read, along the top what was written: the stronger the colour of a cell, the more the network looked there. Point at a cell, or move with the arrow keys.",
      answer: [answer],
    },
    answer,
  );
  const path = modelPath(model, "correct");
  const reading = latest({ debounce: PAUSE_MILLISECONDS, signal });
  /** @type {Alignment[]} */
  let found = [];
  /** @type {Reading | null} */
  let shown = null;
  // Until the first answer there is nothing to choose from.
  sentence.element.hidden = true;
  map.element.hidden = true;

  /** @param {string} text */
  function read(text) {
    return card.guard(() =>
      reading.run(async (newer) => {
        const body = { text, alignment: true };
        card.show({ path, body });
        /** @type {CorrectAnswer} */
        const { results } = await json(path, body, { signal: newer });
        if (!newer.aborted) render(results[0].alignment ?? []);
      }),
    );
  }

  /** @param {Alignment[]} sentences */
  function render(sentences) {
    const chosen = sentences.length === found.length ? Number(sentence.value) : firstChanged(sentences);
    found = sentences;
    setOptions(sentence.input, sentences.map(({ source }, index) => ({ value: String(index), label: shortened(source) })));
    sentence.set(String(chosen));
    sentence.element.hidden = sentences.length < 2;
    map.element.hidden = sentences.length === 0;
    cell.textContent = "";
    summary.textContent = sentences.length ? "" : EMPTY;
    if (sentences.length) show(chosen);
  }

  /** @param {number} index */
  function show(index) {
    const { source, text, weights } = found[index];
    shown = { read: Array.from(source), written: Array.from(text), weights, peaks: weights.map(peakOf) };
    const others = othersOf(shown);
    summary.textContent = summarised(shown, others);
    const column = others[0] ?? 0;
    map.render(weights, { columns: shown.written, rows: shown.read, first: { column, row: shown.peaks[column] } });
  }

  /** @param {Cell} place */
  function describe({ column, row }) {
    if (!shown) return;
    const { read: source, written, weights, peaks } = shown;
    const peak = peaks[column];
    const most = peak === row ? "" : ` Most of it comes from ${named(source, peak)}: ${percent(weights[column][peak])}.`;
    cell.textContent = `${named(written, column)} was read to ${percent(weights[column][row])} from ${named(source, row)}.${most}`;
  }

  return { element: card.element, read };
}

/** @param {Alignment[]} sentences */
const firstChanged = (sentences) => Math.max(0, sentences.findIndex(({ source, text }) => source !== text));

/** @param {number[]} weights */
const peakOf = (weights) => weights.indexOf(Math.max(...weights));

/**
 * The written characters that are not what they were read from most.
 *
 * @param {Reading} reading
 */
function othersOf({ read, written, peaks }) {
  return written.flatMap((character, index) => (character === read[peaks[index]] ? [] : [index]));
}

/** The map in words. @param {Reading} reading @param {number[]} others */
function summarised({ read, written, peaks }, others) {
  const numCopies = written.length - others.length;
  const all = `${read.length} characters were read and ${written.length} written; ${numCopies} of them are the one that they were read from most.`;
  if (others.length === 0) return all;
  const some = others.slice(0, NUM_DESCRIBED).map((index) => `${named(written, index)} from ${named(read, peaks[index])}`);
  const rest = others.length - some.length;
  return `${all} The others: ${some.join(", ")}${rest ? `, and ${rest} more` : ""}.`;
}

/**
 * A character with the word that it stands in.
 *
 * @param {string[]} characters
 * @param {number} index
 */
function named(characters, index) {
  const character = visible(characters[index]);
  if (/\s/.test(characters[index])) return `“${character}”`;
  const start = characters.slice(0, index).findLastIndex((one) => /\s/.test(one)) + 1;
  const length = characters.slice(index).findIndex((one) => /\s/.test(one));
  const word = characters.slice(start, length < 0 ? undefined : index + length).join("");
  return word === character ? `“${word}”` : `“${character}” of “${word}”`;
}

/** @param {string} text */
const shortened = (text) => (text.length > MAX_LABEL ? `${text.slice(0, MAX_LABEL)} …` : text);
