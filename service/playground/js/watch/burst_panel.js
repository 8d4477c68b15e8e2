/** The panel that sends 200 requests, a bounded number at once, and shows in which batches they were computed. */

import { button, select, slider, statusLine } from "../controls.js";
import { curlPanel } from "../curl.js";
import { h } from "../dom.js";
import { errorBox } from "../errors.js";
import { short } from "../format.js";
import { saveButton } from "../image_files.js";
import { modelsOf, TASKS } from "../tasks.js";
import { csvOf, figures, runsTable, squares } from "./burst_results.js";
import { burst, canBurst, curlOf, unitOf } from "./requests.js";

/** @import { Burst, ModelEntry, Outcome } from "../types.d.ts" */

const TIMES = 200;
const MAX_AT_ONCE = 6; // a browser opens no more connections to one host over HTTP/1.1
const MAX_EACH = 8;

/**
 * The panel; null without a model that takes bursts.
 *
 * @param {object} options
 * @param {ModelEntry[]} options.models
 * @param {boolean} options.isAllowed what the service says
 * @param {() => void} options.onBegin
 * @param {AbortSignal} options.signal
 */
export function burstPanel({ models, isAllowed, onBegin, signal }) {
  const able = TASKS.flatMap(({ task }) => modelsOf(models, task)).filter(canBurst);
  if (able.length === 0) return null;
  const chosen = () => able.find((model) => model.id === which.value) ?? able[0];
  const which = select({ label: "Model", options: able.map((model) => model.id), onInput: () => each.set(each.value) });
  const atOnce = slider({ label: "Requests at once", min: 1, max: MAX_AT_ONCE, step: 1, value: MAX_AT_ONCE });
  const each = slider({
    label: "In each request",
    min: 1,
    max: MAX_EACH,
    step: 1,
    value: 1,
    format: (value) => `${value} ${value === 1 ? unitOf(chosen()).slice(0, -1) : unitOf(chosen())}`,
  });
  const grid = squares();
  const runs = runsTable();
  const status = statusLine();
  const errors = errorBox();
  const curl = curlPanel();
  const send = button(`Send ${TIMES} requests`, sendAll, { kind: "primary", disabled: !isAllowed });
  const experiment = button(`One caller against ${MAX_AT_ONCE}`, compareCallers, { disabled: !isAllowed });
  const table = saveButton({ verb: "Download" });
  const stop = button("Stop", () => running?.abort(), { hidden: true });
  /** @type {AbortController | null} */
  let running = null;
  signal.addEventListener("abort", () => running?.abort());

  /** The same burst twice, so that the table shows what batching gives. */
  async function compareCallers() {
    for (const callers of [1, MAX_AT_ONCE]) {
      atOnce.set(callers);
      if (!(await sendAll())) return;
    }
  }

  /** Returns whether the burst was sent to its end. */
  async function sendAll() {
    const mine = new AbortController();
    running = mine;
    const order = { model: chosen(), atOnce: atOnce.value, each: each.value };
    /** @type {Outcome[]} */
    const outcomes = [];
    show(true);
    errors.hide();
    grid.begin(TIMES);
    onBegin();
    const onAnswer = (/** @type {number} */ index, /** @type {Outcome} */ outcome) => {
      outcomes.push(outcome);
      grid.mark(index, outcome);
      status.say(`${outcomes.length} of ${TIMES} answered`);
    };
    try {
      const took = await burst({ ...order, times: TIMES, onAnswer, signal: mine.signal });
      if (!signal.aborted) finish(order, outcomes, took);
    } catch (error) {
      errors.show(error);
    } finally {
      show(false);
    }
    return outcomes.length === TIMES;
  }

  /** @param {Burst} order @param {Outcome[]} outcomes @param {number} took */
  function finish(order, outcomes, took) {
    curl.show({ ...curlOf(order.model, order.each), times: TIMES, atOnce: order.atOnce });
    if (outcomes.length === 0) return status.say("Stopped before the first answer.");
    table.show(new Blob([csvOf(outcomes)], { type: "text/csv" }), `burst-${order.model.id}-${order.atOnce}.csv`);
    const result = figures(outcomes, took, order.each);
    const speedup = runs.add({ model: order.model.id, atOnce: order.atOnce, each: order.each, figures: result });
    const summary = [
      `${outcomes.length} answers in ${short(took)} s, ${short(result.perSecond)} requests per second`,
      result.rowsPerBatch ? `, ${short(result.rowsPerBatch)} rows per batch` : "",
      speedup ? `: ${short(speedup)} times as many as one at a time` : "",
    ].join("");
    status.say(`${summary}.`);
    grid.describe(summary);
    const refused = outcomes.find((outcome) => outcome.error);
    if (refused) errors.show(refused.error);
    return undefined;
  }

  /** @param {boolean} isRunning */
  function show(isRunning) {
    for (const one of [send, experiment]) one.disabled = isRunning || !isAllowed;
    stop.hidden = !isRunning;
    if (isRunning) stop.focus();
    else if (document.activeElement === document.body || document.activeElement === stop) send.focus();
  }

  return h(
    "section",
    { class: "card burst", "aria-labelledby": "burst-title" },
    h("h2", { id: "burst-title" }, "Batching at work"),
    h("p", { class: "muted" }, explanation(isAllowed)),
    h("div", { class: "burst-controls" }, which.element, atOnce.element, each.element),
    h("div", { class: "row" }, send, stop, experiment, table.element),
    status.element,
    grid.element,
    runs.element,
    errors.element,
    curl.element,
  );
}

/** @param {boolean} isAllowed */
function explanation(isAllowed) {
  if (!isAllowed) {
    return "Other machines can reach this service, so bursts are off; --playground-burst turns them on.";
  }
  return (
    "An idle device starts at once; requests that arrive while it computes wait and leave together as the next batch. " +
    "Send the burst with one request at a time, then with six, as many connections as a browser opens: the squares darken " +
    "as batches grow, and the table compares the throughput. A text has a row in every step."
  );
}
