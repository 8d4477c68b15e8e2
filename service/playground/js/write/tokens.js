/** The panel that shows a text as its model reads it, token by token, and which tokens it expected. */

import { json, modelPath } from "../api.js";
import { select } from "../controls.js";
import { clear, focusedChild, h } from "../dom.js";
import { percent, visible } from "../format.js";
import { answerIn, panel } from "../panel.js";
import { latest } from "../scheduling.js";
import { bits, cutBefore } from "./text.js";
import { tokenList } from "./token_list.js";

/** @import { Candidate, Token, TokenizedText } from "../types.d.ts" */
/** @typedef {{heading: string, present?: Candidate | null, onPick?: ((text: string) => void) | null}} Shown */
/** @typedef {Candidate & {isPresent: boolean, isExtra?: boolean}} Row */

const PAUSE_MILLISECONDS = 350;
const SELECT_MILLISECONDS = 50;
const MAX_SHOWN = 400;
const NUM_CANDIDATES = 10;
// Bits: a reader could nearly have said what is below the first; a fair coin has 1, this vocabulary at most 12.
const SURPRISAL_LEVELS = [1, 2, 4, 6, 9];
const NUM_HUES = 4;

/**
 * `read(text)` shows another text; `onPick` gets a candidate that the user appends.
 *
 * @param {{model: string, context: number, signal: AbortSignal, onPick: (text: string) => void}} options
 */
export function tokensPanel({ model, context, signal, onPick }) {
  const view = select({
    label: "Colour by",
    options: [
      { value: "score", label: "surprisal" },
      { value: "tokenize", label: "boundary" },
    ],
    onInput: () => read(text),
  });
  const list = tokenList({ label: "Tokens of the text", onSelect: look });
  const summary = h("p", { class: "tokens-summary" });
  const legend = h("div", { class: "tokens-legend" });
  const candidates = candidateList();
  const expecting = answerIn(candidates.element);
  const card = panel(
    {
      title: "What the model reads",
      hint: "Point at a token, or move with the arrow keys, to see what was expected in its place.",
      kind: "write-tokens",
      answer: [list.element, summary, candidates.element],
    },
    h("div", { class: "tokens-head" }, view.element, legend),
    list.element,
    summary,
    candidates.element,
  );

  const reading = latest({ debounce: PAUSE_MILLISECONDS, signal });
  const looking = latest({ debounce: SELECT_MILLISECONDS, signal });
  let text = "";
  // The text whose tokens are shown, which is not yet the one that is being typed.
  let shown = { text, tokens: /** @type {Token[]} */ ([]), known: /** @type {Map<number, Candidate[]>} */ (new Map()) };

  /** @param {string} next */
  function read(next) {
    text = next;
    if (next === "") return card.guard(() => take({ tokens: [], num_tokens: 0 }));
    return card.guard(() =>
      reading.run(async (newer) => {
        /** @type {TokenizedText} */
        const answer = await ask(view.value, { text: next }, newer);
        if (!newer.aborted) await take(answer);
      }),
    );
  }

  /** @param {TokenizedText} answer to the text as it is now */
  function take(answer) {
    if (text === "") reading.cancel();
    shown = { text, tokens: answer.tokens, known: new Map() };
    render(answer);
    return look(list.selected(), false);
  }

  /** @param {string} route @param {object} body @param {AbortSignal} newer */
  async function ask(route, body, newer, showsCommand = true) {
    const path = modelPath(model, route);
    const answer = await json(path, body, { signal: newer });
    if (showsCommand) card.show({ path, body });
    return answer;
  }

  /** @param {TokenizedText} answer */
  function render(answer) {
    const first = Math.max(0, answer.tokens.length - MAX_SHOWN);
    const isScored = view.value === "score";
    const items = answer.tokens.slice(first).map((token, index) => {
      const name = visible(token.text);
      const surprisal = bits(token.logprob ?? 0);
      return isScored
        ? { text: token.text, class: surprisalClass(surprisal), title: `${name}: ${surprisal.toFixed(1)} bits`, name }
        : { text: token.text, class: `hue-${(first + index) % NUM_HUES}`, title: `${name}: token ${token.id}`, name };
    });
    list.render([...items, { text: "▏", class: "token-end", title: "What comes next", name: "What comes next" }]);
    summary.textContent = summaryText(answer) + (first ? ` · the last ${MAX_SHOWN} shown` : "");
    legend.replaceChildren(...(isScored ? surprisalLegend() : [h("span", { class: "muted" }, "one tint per token")]));
  }

  /**
   * Show what was expected in place of the token at `index` among those shown.
   *
   * @param {number} index
   */
  function look(index, showsCommand = true) {
    const { tokens } = shown;
    const place = Math.max(0, tokens.length - MAX_SHOWN) + Math.max(0, index);
    return card.guard(
      () => looking.run(async (newer) => {
        const expected = await expectedAt(place, newer, showsCommand);
        if (newer.aborted) return;
        const token = tokens[place];
        candidates.show(expected, token ? inPlaceOf(token) : { heading: "What may come next", onPick });
      }),
      expecting,
    );
  }

  /** @param {number} place @param {AbortSignal} newer @param {boolean} showsCommand @returns {Promise<Candidate[]>} */
  async function expectedAt(place, newer, showsCommand) {
    const { tokens, known } = shown;
    const body = { text: cutBefore(shown.text, tokens, place, context - 2), top_k: NUM_CANDIDATES };
    const before = known.get(place);
    if (before) {
      card.show({ path: modelPath(model, "next-token"), body });
      return before;
    }
    const { candidates: found } = await ask("next-token", body, newer, showsCommand);
    known.set(place, found);
    return found;
  }

  return { element: card.element, read };
}

/** @param {Token} token @returns {Shown} */
function inPlaceOf({ text, logprob }) {
  const heading = `What was expected in place of “${visible(text)}”`;
  if (logprob === undefined || logprob === null) return { heading, present: { text } };
  return { heading: `${heading}, ${bits(logprob).toFixed(1)} bits`, present: { text, probability: Math.exp(logprob) } };
}

/** @param {number} surprisal */
function surprisalClass(surprisal) {
  const level = SURPRISAL_LEVELS.findIndex((max) => surprisal < max);
  return `surprisal-${level === -1 ? SURPRISAL_LEVELS.length : level}`;
}

function surprisalLegend() {
  const names = [...SURPRISAL_LEVELS.map((max) => `< ${max}`), `≥ ${SURPRISAL_LEVELS.at(-1)}`];
  const steps = names.map((name, level) => h("span", { class: `legend-step surprisal-${level}` }, name));
  return [h("span", { class: "muted" }, "bits"), ...steps];
}

/** @param {TokenizedText} answer */
function summaryText({ tokens, num_tokens, num_bytes, perplexity, bits_per_byte }) {
  if (tokens.length === 0) return "Nothing to read yet.";
  if (perplexity !== undefined && bits_per_byte !== undefined) {
    return `${num_tokens} tokens · ${num_bytes} bytes · perplexity ${perplexity.toFixed(1)} · ${bits_per_byte.toFixed(2)} bits per byte`;
  }
  const numBytes = tokens.reduce((sum, token) => sum + token.bytes.length, 0);
  return `${num_tokens} tokens · ${numBytes} bytes · ${(numBytes / num_tokens).toFixed(1)} bytes per token`;
}

/** The likeliest tokens as bars, with the one in the text marked. */
function candidateList() {
  const title = h("h3", { class: "candidates-title" });
  const list = h("ol", { class: "candidates" });
  const element = h("div", { class: "candidates-box" }, title, list);

  /**
   * `present` is the token in the text; `onPick` makes each candidate a button.
   *
   * @param {Candidate[]} candidates
   * @param {Shown} options
   */
  function show(candidates, { heading, present = null, onPick = null }) {
    title.textContent = heading;
    /** @type {Row[]} */
    const rows = candidates.map((candidate) => ({ ...candidate, isPresent: candidate.text === present?.text }));
    if (present && !rows.some((row) => row.isPresent)) rows.push({ ...present, isPresent: true, isExtra: true });
    const max = Math.max(...rows.map((row) => row.probability ?? 0));
    // A user who picks one after the other by keyboard stays in the list.
    const at = focusedChild(list);
    clear(list).append(...rows.map((row) => line(row, max, onPick)));
    if (at >= 0) list.children[Math.min(at, rows.length - 1)]?.querySelector("button")?.focus();
  }

  return { element, show };
}

/** @param {Row} row @param {number} max @param {((text: string) => void) | null} onPick */
function line({ text, probability, isPresent, isExtra }, max, onPick) {
  const fill = h("span", { class: "candidate-fill", style: { width: `${((probability ?? 0) / max) * 100}%` } });
  const label = onPick
    ? h("button", { type: "button", class: "candidate-pick", title: "Append to the text", on: { click: () => onPick(text) } }, visible(text))
    : h("span", { class: "candidate-label" }, visible(text));
  const kind = `candidate${isPresent ? " is-present" : ""}${isExtra ? " is-extra" : ""}`;
  const share = probability === undefined ? "not among these" : percent(probability);
  const mark = isPresent ? h("span", { class: "visually-hidden" }, " (in the text)") : null;
  return h("li", { class: kind }, label, h("span", { class: "candidate-bar" }, fill), h("span", { class: "candidate-share" }, share, mark));
}
