/** The results of bursts: a square for each request, and a table to compare bursts. */

import { announce, clear, h } from "../dom.js";
import { seconds, short } from "../format.js";

/** @import { Outcome } from "../types.d.ts" */
/** @typedef {ReturnType<typeof figures>} Figures */

const HEADS = ["Model", "At once", "In each", "Requests/s", "Items/s", "p50", "p99", "Rows per batch"];
const LEVELS = [
  { words: "alone", max: 1 },
  { words: "2", max: 2 },
  { words: "3–4", max: 4 },
  { words: "5–8", max: 8 },
  { words: "more", max: Infinity },
];

/** One square for each request of a burst, shaded by the size of the batch that computed it. */
export function squares() {
  const grid = h("div", { class: "squares", role: "img", "aria-label": "No request sent yet" });
  const legend = h(
    "ul",
    { class: "squares-legend muted" },
    h("li", {}, "Rows in the batch:"),
    LEVELS.map(({ words }, level) => h("li", {}, h("span", { class: `square level-${level}`, "aria-hidden": "true" }), words)),
    h("li", {}, h("span", { class: "square done", "aria-hidden": "true" }), "a text, in many"),
    h("li", {}, h("span", { class: "square failed", "aria-hidden": "true" }), "refused"),
  );

  /** @param {number} count */
  function begin(count) {
    clear(grid).append(...Array.from({ length: count }, () => h("span", { class: "square" })));
    grid.setAttribute("aria-label", `${count} requests being sent`);
  }

  /** @param {number} index @param {Outcome} outcome */
  function mark(index, { batchSize, error }) {
    const { classList } = grid.children[index];
    if (error) classList.add("failed");
    // A text is computed in many batches, of which none is its own.
    else classList.add(batchSize ? `level-${LEVELS.findIndex(({ max }) => batchSize <= max)}` : "done");
  }

  /** @param {string} text */
  function describe(text) {
    grid.setAttribute("aria-label", text);
    announce(text);
  }

  return { element: h("div", { class: "stack" }, grid, legend), begin, mark, describe };
}

/**
 * The figures of a burst of outcomes that took so many seconds.
 *
 * @param {Outcome[]} outcomes
 * @param {number} took
 * @param {number} each
 */
export function figures(outcomes, took, each) {
  const answered = outcomes.filter((outcome) => !outcome.error);
  const times = answered.map((outcome) => outcome.milliseconds / 1000).sort((a, b) => a - b);
  const at = (/** @type {number} */ q) => times[Math.min(times.length - 1, Math.floor(q * times.length))] ?? null;
  return {
    perSecond: answered.length / took,
    itemsPerSecond: (answered.length * each) / took,
    p50: at(0.5),
    p99: at(0.99),
    rowsPerBatch: meanBatch(answered, each),
  };
}

/**
 * Each request reports the size of its own batch; many report a large batch, so batches are counted, not requests.
 *
 * @param {Outcome[]} answered
 * @param {number} each
 */
function meanBatch(answered, each) {
  const known = answered.filter((outcome) => outcome.batchSize > 0);
  const numBatches = known.reduce((sum, outcome) => sum + each / outcome.batchSize, 0);
  return numBatches ? (known.length * each) / numBatches : null;
}

/**
 * A burst as a table of comma-separated values: a line for each request, in the order of the answers.
 *
 * @param {Outcome[]} outcomes
 */
export function csvOf(outcomes) {
  const lines = outcomes.map(({ milliseconds, batchSize, error }) => [milliseconds.toFixed(3), batchSize || "", error ? "refused" : "answered"].join(","));
  return ["latency_milliseconds,batch_rows,outcome", ...lines, ""].join("\n");
}

/** The table of bursts, the newest first. */
export function runsTable() {
  const body = h("tbody");
  /** Requests per second one at a time, by what is sent. @type {Map<string, number>} */
  const single = new Map();
  const table = h(
    "table",
    { class: "runs" },
    h("caption", { class: "visually-hidden" }, "Bursts that were sent, the newest first"),
    h("thead", {}, h("tr", {}, HEADS.map((head) => h("th", { scope: "col" }, head)))),
    body,
  );
  const element = h("div", { class: "runs-frame", role: "region", "aria-label": "Bursts", tabindex: "0", hidden: true }, table);

  /**
   * Add a burst; returns how many times the throughput of one request at a time it had, where that is known.
   *
   * @param {{model: string, atOnce: number, each: number, figures: Figures}} run
   */
  function add({ model, atOnce, each, figures: { perSecond, itemsPerSecond, p50, p99, rowsPerBatch } }) {
    const sent = `${model} ${each}`;
    if (atOnce === 1) single.set(sent, perSecond);
    const cells = [atOnce, each, short(perSecond), short(itemsPerSecond), seconds(p50), seconds(p99), short(rowsPerBatch)];
    body.prepend(h("tr", {}, h("th", { scope: "row" }, model), cells.map((cell) => h("td", {}, cell))));
    element.hidden = false;
    const alone = single.get(sent);
    return atOnce > 1 && alone ? perSecond / alone : null;
  }

  return { element, add };
}
