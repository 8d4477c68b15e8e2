/** The panel of attention: arcs from each token to those that a head looks back at, with every head to choose from. */

import { json, modelPath } from "../api.js";
import { latest, select, toggle } from "../controls.js";
import { h } from "../dom.js";
import { panel } from "../panel.js";
import { drawArcs } from "./arcs.js";
import { headMap } from "./head_map.js";
import { cutBefore, percent, visible } from "./reading.js";
import { tokenList } from "./token_list.js";

const PAUSE_MS = 600;
const LENGTHS = [12, 24, 48, 96];
const FIRST_LENGTH = 24;
const NUM_TOLD = 4;

/** `read(text)` looks at another text; for a model without attention the panel says so and asks nothing. */
export function attentionPanel({ model, manifest, signal }) {
  if (!("attention" in manifest.graphs)) return { element: absent(model), read() {} };

  const most = manifest.language.attention_tokens - 1; // one is that of the beginning
  const lengths = most < LENGTHS[0] ? [most] : LENGTHS.filter((one) => one <= most);
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
  const list = tokenList({ label: "Tokens of the text, with their attention", onLook: () => redraw(), kind: "arcs-tokens" });
  const told = h("p", { class: "arcs-told", "aria-live": "polite" });
  const scroll = h("div", { class: "arcs-scroll", tabindex: 0, role: "region", "aria-label": "Attention arcs" }, arcs, list.element);
  const card = panel(
    {
      title: "Attention",
      hint: "Each arc joins a token with an earlier one that this head reads; the stronger, the more it counts. Point at a token to single it out.",
      kind: "write-attention",
    },
    h(
      "div",
      { class: "attention-columns" },
      h("div", { class: "stack" }, h("div", { class: "attention-controls" }, layer.element, head.element, length.element, hidesFirst.element), scroll, told),
      map.element,
    ),
  );

  const reading = latest({ debounce: PAUSE_MS, signal });
  let text = "";
  let found = null;

  function read(next) {
    text = next;
    return card.guard(() =>
      reading.run(async (newer) => {
        const part = await lastTokens(model, text, Number(length.value), newer);
        const path = modelPath(model, "attention");
        const body = { text: part };
        const answer = await json(path, body, { signal: newer });
        if (newer.aborted) return;
        card.show({ path, body });
        render(answer);
      }),
    );
  }

  function render(answer) {
    const isFirst = found === null;
    found = answer;
    if (isFirst) {
      refill(layer, found.attention.length);
      refill(head, found.attention[0].length);
      choose(...mostVaried(found.attention));
    }
    map.render(found.attention, Number(layer.value) - 1, Number(head.value) - 1);
    list.render(found.tokens.map(({ text }, index) => (index === 0 ? { text: "begin", class: "token-begin", name: "begin" } : { text, class: "", name: visible(text) })));
    redraw();
    scroll.scrollLeft = scroll.scrollWidth; // to the token that is looked at, the last
  }

  function choose(layerIndex, headIndex) {
    layer.set(String(layerIndex + 1));
    head.set(String(headIndex + 1));
    if (list.items().length) redraw();
  }

  function chosen() {
    map.choose(Number(layer.value) - 1, Number(head.value) - 1);
    redraw();
  }

  function redraw() {
    if (!found) return;
    const weights = found.attention[Number(layer.value) - 1][Number(head.value) - 1];
    const least = hidesFirst.value ? 1 : 0;
    drawArcs(arcs, list.items(), weights, { at: list.looked(), least });
    told.textContent = spoken(found.tokens, weights, list.looked(), least);
  }

  // Where tokens stand depends on the width and on the font, once it is there.
  const observer = new ResizeObserver(() => redraw());
  observer.observe(list.element);
  signal.addEventListener("abort", () => observer.disconnect());

  return { element: card.element, read };
}

function absent(model) {
  const { element, body } = panel({ title: "Attention", kind: "write-attention" });
  body.append(
    h(
      "p",
      {},
      `${model} has no attention: it is not a Transformer. A recurrent network carries what it has read in one state of a fixed size, and there are no weights on earlier tokens to draw.`,
    ),
  );
  return element;
}

function refill(control, count) {
  const options = Array.from({ length: count }, (_, index) => h("option", { value: String(index + 1) }, String(index + 1)));
  control.input.replaceChildren(...options);
}

async function lastTokens(model, text, most, signal) {
  if (text === "") return text;
  const { tokens } = await json(modelPath(model, "tokenize"), { text }, { signal });
  return tokens.length > most ? cutBefore(text, tokens, tokens.length, most, 0) : text;
}

/** The head that looks at most beside the beginning and the token itself: there is something to see at once. */
function mostVaried(attention) {
  let best = [0, 0];
  let most = -1;
  attention.forEach((heads, layer) =>
    heads.forEach((weights, head) => {
      const sum = weights.reduce((total, row, from) => total + row.slice(1, from).reduce((a, b) => a + (b > 0.15 ? b : 0), 0), 0);
      if (sum > most) [best, most] = [[layer, head], sum];
    }),
  );
  return best;
}

function spoken(tokens, weights, at, least) {
  if (at < 0) return "";
  if (at === 0) return "Nothing comes before the beginning: it looks at itself.";
  const name = (index) => (index === 0 ? "the beginning" : `“${visible(tokens[index].text)}”`);
  const rows = weights[at].slice(0, at + 1).map((weight, to) => ({ weight, to }));
  const best = rows.filter(({ to }) => to >= least).sort((a, b) => b.weight - a.weight).slice(0, NUM_TOLD);
  const parts = best.map(({ weight, to }) => `${to === at ? "itself" : name(to)} ${percent(weight)}`);
  if (least && at > 0) parts.push(`the beginning ${percent(weights[at][0])}`);
  return `${name(at)} looks at ${parts.join(", ")}.`;
}
