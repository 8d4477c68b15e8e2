/** The panel that shows a text as its model reads it: token by token, by boundary or by surprise, and what was expected. */

import { json, modelPath } from "../api.js";
import { latest, select } from "../controls.js";
import { h } from "../dom.js";
import { panel } from "../panel.js";
import { candidateList } from "./candidates.js";
import { bits, cutBefore, visible } from "./reading.js";
import { tokenList } from "./token_list.js";

const PAUSE_MS = 350;
const LOOK_MS = 50;
const MOST_SHOWN = 400;
const NUM_CANDIDATES = 10;
// In bits: below the first is what one could nearly have said oneself; a fair coin has 1, this vocabulary at most 12.
const SURPRISES = [1, 2, 4, 6, 9];
const NUM_HUES = 4;

/** `read(text)` shows another text; `onPick(text)` is told of a candidate that is to be appended. */
export function tokensPanel({ model, context, signal, onPick }) {
  const view = select({
    label: "Colour by",
    options: [
      { value: "score", label: "surprise" },
      { value: "tokenize", label: "boundary" },
    ],
    onInput: () => read(text),
  });
  const list = tokenList({ label: "Tokens of the text", onLook: look });
  const summary = h("p", { class: "tokens-summary" });
  const legend = h("div", { class: "tokens-legend" });
  const candidates = candidateList();
  const card = panel(
    { title: "What the model reads", hint: "Point at a token, or walk with the arrow keys, to see what was expected in its place.", kind: "write-tokens" },
    h("div", { class: "tokens-head" }, view.element, legend),
    list.element,
    summary,
    candidates.element,
  );

  const reading = latest({ debounce: PAUSE_MS, signal });
  const looking = latest({ debounce: LOOK_MS, signal });
  let text = "";
  // The text whose tokens are shown, which is not yet the one that is being typed.
  let seen = { text, tokens: [], known: new Map() };

  function read(next) {
    text = next;
    return card.guard(() =>
      reading.run(async (newer) => {
        const answer = next === "" ? { tokens: [], num_tokens: 0 } : await ask(view.value, { text: next }, newer);
        seen = { text: next, tokens: answer.tokens, known: new Map() };
        render(answer);
        await look(list.looked(), false);
      }),
    );
  }

  async function ask(route, body, newer, shows = true) {
    const path = modelPath(model, route);
    const answer = await json(path, body, { signal: newer });
    if (shows) card.show({ path, body });
    return answer;
  }

  function render(answer) {
    const { tokens } = seen;
    const first = Math.max(0, tokens.length - MOST_SHOWN);
    const isScored = view.value === "score";
    const shown = tokens.slice(first).map((token, index) => ({
      text: token.text,
      class: isScored ? surpriseClass(token.logprob) : `hue-${(first + index) % NUM_HUES}`,
      title: isScored ? `${visible(token.text)}: ${bits(token.logprob).toFixed(1)} bits` : `${visible(token.text)}: token ${token.id}`,
      name: visible(token.text),
    }));
    list.render([...shown, { text: "▏", class: "token-end", title: "What comes next", name: "What comes next" }]);
    summary.textContent = tokens.length ? summaryText(answer) + (first ? ` · the last ${MOST_SHOWN} shown` : "") : "Nothing to read yet.";
    legend.replaceChildren(...(isScored ? surpriseLegend() : [h("span", { class: "muted" }, "one tint a token")]));
  }

  /** Show what was expected in place of the token at `index` among those shown. */
  function look(index, shows = true) {
    const { tokens } = seen;
    const place = Math.max(0, tokens.length - MOST_SHOWN) + Math.max(0, index);
    return card.guard(() =>
      looking.run(async (newer) => {
        const expected = await expectation(place, newer, shows);
        if (newer.aborted) return;
        const token = tokens[place];
        candidates.show(expected, token ? instead(token) : { heading: "What may come next", onPick });
      }),
    );
  }

  async function expectation(place, newer, shows) {
    const { text, tokens, known } = seen;
    const body = { text: cutBefore(text, tokens, place, context - 2), top_k: NUM_CANDIDATES };
    if (known.has(place)) {
      card.show({ path: modelPath(model, "next-token"), body });
      return known.get(place);
    }
    const { candidates: found } = await ask("next-token", body, newer, shows);
    known.set(place, found);
    return found;
  }

  return { element: card.element, read };
}

function instead({ text, logprob }) {
  const told = logprob === undefined ? "" : `, ${bits(logprob).toFixed(1)} bits`;
  const probability = logprob === undefined ? undefined : Math.exp(logprob);
  return { heading: `What was expected in place of “${visible(text)}”${told}`, here: { text, probability } };
}

function surpriseClass(logprob) {
  const level = SURPRISES.findIndex((most) => bits(logprob) < most);
  return `surprise-${level === -1 ? SURPRISES.length : level}`;
}

function surpriseLegend() {
  const names = [...SURPRISES.map((most) => `< ${most}`), `≥ ${SURPRISES.at(-1)}`];
  const steps = names.map((name, level) => h("span", { class: `legend-step surprise-${level}` }, name));
  return [h("span", { class: "muted" }, "bits"), ...steps];
}

function summaryText(answer) {
  const parts = [`${answer.num_tokens} tokens`];
  if (answer.perplexity === undefined) {
    const numBytes = answer.tokens.reduce((sum, token) => sum + token.bytes.length, 0);
    parts.push(`${numBytes} bytes`, `${(numBytes / answer.num_tokens).toFixed(1)} bytes a token`);
  } else {
    parts.push(`${answer.num_bytes} bytes`, `perplexity ${answer.perplexity.toFixed(1)}`, `${answer.bits_per_byte.toFixed(2)} bits a byte`);
  }
  return parts.join(" · ");
}
