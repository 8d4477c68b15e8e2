/** The panel that sends 200 requests, a bounded number at once, and shows in which batches they were computed. */

import { short } from "../charts.js";
import { button, errorBox, select, slider, statusLine } from "../controls.js";
import { curlPanel } from "../curl.js";
import { h } from "../dom.js";
import { TASKS, modelsOf } from "../tasks.js";
import { burst, canBurst, curlOf, unitOf } from "./requests.js";
import { figures, runsTable } from "./runs.js";
import { squares } from "./squares.js";

const TIMES = 200;
const MAX_AT_ONCE = 6; // a browser opens no more connections to one host over HTTP/1.1
const MAX_EACH = 8;

/** `onBegin(model)` hears of each burst; `isAllowed` is what the service says. Returns the element; null without a model. */
export function burstPanel({ models, isAllowed, onBegin, signal }) {
  const able = TASKS.flatMap(({ task }) => modelsOf(models, task)).filter(canBurst);
  if (able.length === 0) return null;
  const chosen = () => able.find((model) => model.id === which.value);
  const options = able.map((model) => model.id);
  const which = select({ label: "Model", options, onInput: () => each.set(each.value) });
  const atOnce = slider({ label: "Requests at once", min: 1, max: MAX_AT_ONCE, step: 1, value: MAX_AT_ONCE });
  const wordEach = (value) => `${value} ${value === 1 ? unitOf(chosen()).slice(0, -1) : unitOf(chosen())}`;
  const each = slider({ label: "In each request", min: 1, max: MAX_EACH, step: 1, value: 1, format: wordEach });
  const grid = squares();
  const runs = runsTable();
  const status = statusLine();
  const errors = errorBox();
  const curl = curlPanel();
  const send = button(`Send ${TIMES} requests`, sendAll, { kind: "primary", disabled: !isAllowed });
  const stop = button("Stop", () => running?.abort(), { hidden: true });
  let running = null;
  signal.addEventListener("abort", () => running?.abort());

  async function sendAll() {
    running = new AbortController();
    const mine = running;
    const order = { model: chosen(), atOnce: atOnce.value, each: each.value };
    const outcomes = [];
    show(true);
    errors.hide();
    grid.begin(TIMES);
    onBegin(order.model);
    const onAnswer = (index, outcome) => {
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
  }

  function finish(order, outcomes, took) {
    curl.show({ ...curlOf(order.model, order.each), times: TIMES, atOnce: order.atOnce });
    if (outcomes.length === 0) return status.say("Stopped before the first answer.");
    const result = figures(outcomes, took, order.each);
    const worth = runs.add({ model: order.model.id, atOnce: order.atOnce, each: order.each, figures: result });
    const words = `${outcomes.length} answers in ${short(took)} s, ${short(result.perSecond)} requests per second`;
    const batches = result.batch ? `, ${short(result.batch)} rows per batch` : "";
    const against = worth ? `: ${short(worth)} times as many as one at a time` : "";
    status.say(`${words}${batches}${against}.`);
    grid.tell(`${words}${batches}${against}`);
    const refused = outcomes.find((outcome) => outcome.error);
    if (refused) errors.show(refused.error);
    return undefined;
  }

  function show(isRunning) {
    send.disabled = isRunning || !isAllowed;
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
    h("div", { class: "row" }, send, stop, status.element),
    grid.element,
    runs.element,
    errors.element,
    curl.element,
  );
}

function explanation(isAllowed) {
  if (!isAllowed) {
    return "This service listens beyond its own machine, so bursts are off; --playground-burst turns them on.";
  }
  return (
    "An idle device starts at once; what arrives while it computes waits and leaves together as the next batch. " +
    "Send the burst with one request at a time, then with six, which is as many connections as a browser opens: " +
    "the squares take on colour as batches grow, and the table tells what that is worth. A text has a row in every step."
  );
}
