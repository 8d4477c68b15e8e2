/** The panel of attention: arcs from each token to those that a head looks back at, with every head to choose from. */

import { json, modelPath } from "../api.js";
import { select, setOptions, toggle } from "../controls.js";
import { h } from "../dom.js";
import { percent, visible } from "../format.js";
import { panel } from "../panel.js";
import { latest } from "../scheduling.js";
import { drawArcs, headMap } from "./attention_maps.js";
import { isRecurrent } from "./compare.js";
import { lastTokens } from "./text.js";
import { tokenList } from "./token_list.js";

/** @import { AttentionAnswer, Control, Manifest } from "../types.d.ts" */

const PAUSE_MILLISECONDS = 600;
const LENGTHS = [12, 24, 48, 96];
const FIRST_LENGTH = 24;
const NUM_DESCRIBED = 4;
const MIN_VARIED_WEIGHT = 0.15;

/**
 * `read(text)` shows another text. A recurrent network has no attention, which the panel then says; where the graph that
 * gives it is missing there is no panel.
 *
 * @param {{model: string, manifest: Manifest, signal: AbortSignal}} options
 */
export function attentionPanel({ model, manifest, signal }) {
  if (!manifest.language || !("attention" in manifest.graphs)) {
    return { element: isRecurrent(manifest.language) ? absent(model) : null, read() {} };
  }

  const max = manifest.language.attention_tokens - 1; // one is that of the beginning
  const lengths = max < LENGTHS[0] ? [max] : LENGTHS.filter((one) => one <= max);
  const length = select({
    label: "Tokens",
    options: lengths.map((value) => ({ value: String(value), label: `the last ${value}` })),
    value: String(lengths.findLast((one) => one <= FIRST_LENGTH)),
    onInput: () => read(text),
  });
  const layer = select({ label: "Layer", options: ["1"], onInput: chosen });
  const head = select({ label: "Head", options: ["1"], onInput: chosen });
  const hidesFirst = toggle({ label: "Leave out the token that begins every text", value: true, onInput: () => redraw() });
  const map = headMap({ onChoose: choose });
  const arcs = h("div", { class: "arcs-plot" });
  const list = tokenList({ label: "Tokens of the text, with their attention", onSelect: () => redraw(), kind: "arcs-tokens" });
  const description = h("p", { class: "arcs-description", "aria-live": "polite" });
  const scroll = h("div", { class: "arcs-scroll", tabindex: 0, role: "region", "aria-label": "Attention arcs" }, arcs, list.element);
  const controls = h("div", { class: "attention-controls" }, layer.element, head.element, length.element, hidesFirst.element);
  const card = panel(
    {
      title: "Attention",
      hint: "Each arc joins a token to an earlier one that this head reads, the darker the more it counts. Point at a token to single it out.",
      kind: "write-attention",
      answer: [scroll, description, map.element],
    },
    h("div", { class: "attention-columns" }, h("div", { class: "stack" }, controls, scroll, description), map.element),
  );

  const reading = latest({ debounce: PAUSE_MILLISECONDS, signal });
  let text = "";
  /** @type {AttentionAnswer | null} */
  let found = null;

  /** @param {string} next */
  function read(next) {
    text = next;
    if (next === "" && found) {
      // A beginning alone looks at itself, in every head.
      reading.cancel();
      render({ tokens: [{ text: "" }], attention: found.attention.map((heads) => heads.map(() => [[1]])) });
    }
    return card.guard(() =>
      reading.run(async (newer) => {
        const path = modelPath(model, "attention");
        const body = { text: await lastTokens(model, text, Number(length.value), newer) };
        const answer = await json(path, body, { signal: newer });
        if (newer.aborted) return;
        card.show({ path, body });
        render(answer);
      }),
    );
  }

  /** @param {AttentionAnswer} answer */
  function render(answer) {
    const { attention, tokens } = answer;
    if (found === null) {
      number(layer, attention.length);
      number(head, attention[0].length);
      setHead(mostVaried(attention));
    }
    found = answer;
    map.render(attention, indexOf(layer), indexOf(head));
    list.render(
      tokens.map((token, index) =>
        index === 0
          ? { text: "begin", class: "token-begin", name: "begin" }
          : { text: token.text, class: "", name: visible(token.text) },
      ),
    );
    redraw();
    scroll.scrollLeft = scroll.scrollWidth; // to the selected token, the last
  }

  /** @param {number} layerIndex @param {number} headIndex */
  function choose(layerIndex, headIndex) {
    setHead([layerIndex, headIndex]);
    redraw();
  }

  /** @param {[number, number]} indices of the layer and the head */
  function setHead([layerIndex, headIndex]) {
    layer.set(String(layerIndex + 1));
    head.set(String(headIndex + 1));
  }

  function chosen() {
    map.choose(indexOf(layer), indexOf(head));
    redraw();
  }

  function redraw() {
    if (!found) return;
    const weights = found.attention[indexOf(layer)][indexOf(head)];
    const first = hidesFirst.value ? 1 : 0;
    const selected = list.selected();
    drawArcs(arcs, list.items(), weights, { selected, first });
    description.textContent = described(found.tokens, weights, selected, first);
  }

  // Where tokens stand depends on the width and on the font, once it is there.
  const observer = new ResizeObserver(() => redraw());
  observer.observe(list.element);
  signal.addEventListener("abort", () => observer.disconnect());

  return { element: card.element, read };
}

/** @param {string} model */
function absent(model) {
  const words =
    `${model} has no attention: it is not a Transformer. A recurrent network carries what it has read in one state of a ` +
    "fixed size, so there are no weights on earlier tokens to draw.";
  return panel({ title: "Attention", kind: "write-attention" }, h("p", {}, words)).element;
}

/** @param {Control<string, HTMLSelectElement>} control @param {number} count */
function number(control, count) {
  setOptions(control.input, Array.from({ length: count }, (_, index) => String(index + 1)));
}

/** @param {Control<string, HTMLSelectElement>} control */
const indexOf = (control) => Number(control.value) - 1;

/**
 * The layer and head that look most at tokens other than the first and themselves: there is something to see at once.
 *
 * @param {number[][][][]} attention
 * @returns {[number, number]}
 */
function mostVaried(attention) {
  /** @type {[number, number]} */
  let best = [0, 0];
  let highest = -1;
  attention.forEach((heads, layer) =>
    heads.forEach((weights, head) => {
      const others = weights.flatMap((row, from) => row.slice(1, from)).filter((weight) => weight > MIN_VARIED_WEIGHT);
      const sum = others.reduce((total, weight) => total + weight, 0);
      if (sum > highest) [best, highest] = [[layer, head], sum];
    }),
  );
  return best;
}

/**
 * What the selected token looks at, in words.
 *
 * @param {{text: string}[]} tokens
 * @param {number[][]} weights
 * @param {number} selected
 * @param {number} first
 */
function described(tokens, weights, selected, first) {
  if (selected < 0) return "";
  if (selected === 0) return "Nothing comes before the beginning: it looks at itself.";
  const name = (/** @type {number} */ index) => (index === 0 ? "the beginning" : `“${visible(tokens[index].text)}”`);
  const rows = weights[selected].slice(0, selected + 1).map((weight, to) => ({ weight, to }));
  const best = rows.slice(first).sort((a, b) => b.weight - a.weight).slice(0, NUM_DESCRIBED);
  const parts = best.map(({ weight, to }) => `${to === selected ? "itself" : name(to)} ${percent(weight)}`);
  if (first) parts.push(`the beginning ${percent(weights[selected][0])}`);
  return `${name(selected)} looks at ${parts.join(", ")}.`;
}
