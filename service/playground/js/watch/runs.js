/** The table of bursts that were sent, so that they can be compared. */

import { seconds, short } from "../charts.js";
import { h } from "../dom.js";

const HEADS = ["Model", "At once", "In each", "Requests/s", "Items/s", "p50", "p99", "Rows per batch"];

/** The figures of a burst of outcomes that took so many seconds. */
export function figures(outcomes, took, each) {
  const answered = outcomes.filter((outcome) => !outcome.error);
  const times = answered.map((outcome) => outcome.milliseconds / 1000).sort((a, b) => a - b);
  const at = (q) => times[Math.min(times.length - 1, Math.floor(q * times.length))] ?? null;
  return {
    refused: outcomes.length - answered.length,
    perSecond: answered.length / took,
    itemsPerSecond: (answered.length * each) / took,
    p50: at(0.5),
    p99: at(0.99),
    batch: meanBatch(answered, each),
  };
}

// Each request tells the size of its own batch; a large batch is told by many, so batches are counted, not requests.
function meanBatch(answered, each) {
  const told = answered.filter((outcome) => outcome.batchSize > 0);
  const batches = told.reduce((sum, outcome) => sum + each / outcome.batchSize, 0);
  return batches ? (told.length * each) / batches : null;
}

/** `{element, add(run)}`: the newest burst stands first; `add` returns what it is worth against one at a time, or null. */
export function runsTable() {
  const body = h("tbody");
  const single = new Map(); // requests per second one at a time, by what is sent
  const table = h(
    "table",
    { class: "runs" },
    h("caption", { class: "visually-hidden" }, "Bursts that were sent, the newest first"),
    h("thead", {}, h("tr", {}, HEADS.map((head) => h("th", { scope: "col" }, head)))),
    body,
  );
  const element = h("div", { class: "runs-frame", role: "region", "aria-label": "Bursts", tabindex: "0", hidden: true }, table);
  return {
    element,
    add({ model, atOnce, each, figures: { perSecond, itemsPerSecond, p50, p99, batch } }) {
      const sent = `${model} ${each}`;
      if (atOnce === 1) single.set(sent, perSecond);
      const cells = [atOnce, each, short(perSecond), short(itemsPerSecond), seconds(p50), seconds(p99), short(batch)];
      body.prepend(h("tr", {}, h("th", { scope: "row" }, model), cells.map((cell) => h("td", {}, String(cell)))));
      element.hidden = false;
      return atOnce > 1 && single.has(sent) ? perSecond / single.get(sent) : null;
    },
  };
}
