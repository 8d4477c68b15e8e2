/** The engine at work: tiles, charts and batch sizes from `/metrics`, and a burst of requests to see batches form. */

import { config } from "../api.js";
import { bars, histogram } from "../charts.js";
import { button, select } from "../controls.js";
import { curlPanel } from "../curl.js";
import { h, useStyle } from "../dom.js";
import { errorBox } from "../errors.js";
import { short } from "../format.js";
import { poll } from "../metrics.js";
import { distinct } from "../tasks.js";
import { chartCards, tiles } from "../watch/board.js";
import { burstPanel } from "../watch/burst_panel.js";
import { batchSizes, departures, reading, wholeService } from "../watch/readings.js";
import { timelinePanel } from "../watch/timeline.js";

/** @import { PageContext, Scrape } from "../types.d.ts" */
/** @import { Reading } from "../watch/readings.js" */

const POLL_SECONDS = 1;
const ALL = "all models";
const TILES = ["Models ready", "In flight", "Waiting", "Requests/s", "Rows/s", "Tokens/s", "Engine restarts", "Memory"];

export const title = "Watch";

/** @param {HTMLElement} root @param {PageContext} context */
export default async function page(root, { models, signal }) {
  const [settings] = await Promise.all([config(), useStyle("watch")]);
  if (signal.aborted) return;
  const errors = errorBox();
  const board = tiles(TILES);
  const charts = chartCards("last two minutes");
  const sizes = batchCard();
  const timeline = timelinePanel(signal);
  /** @type {string | null} */
  let model = null;
  /** @type {Scrape | null} */
  let newest = null;

  const names = distinct(models).map((one) => one.id);
  const which = select({ label: "Show", options: [ALL, ...names], onInput: choose });
  const burst = burstPanel({ models, isAllowed: settings.burst_allowed, signal, onBegin: () => sizes.restart(newest) });

  /** @param {string} name */
  function choose(name) {
    model = name === ALL ? null : name;
    for (const chart of charts) chart.reset();
    timeline.choose(model);
    if (newest) sizes.show(newest, model);
  }

  /** @param {Scrape} now @param {Scrape | null} before */
  function onScrape(now, before) {
    newest = now;
    errors.hide();
    const current = reading(now, before, model);
    showTiles(board, wholeService(now), current);
    for (const chart of charts) chart.add(current);
    sizes.show(now, model);
  }

  const curl = curlPanel();
  curl.show({ path: "/metrics" });
  root.append(
    h(
      "div",
      { class: "row spread" },
      h("div", { class: "page-head" }, h("h1", {}, "The engine at work"), h("p", {}, "Once a second from the metrics that Prometheus scrapes.")),
      which.element,
    ),
    board.element,
    errors.element,
    h("div", { class: "layout wide-left" }, burst, h("div", { class: "stack" }, sizes.element, charts[0].element)),
    timeline.element,
    h("div", { class: "charts" }, charts.slice(1).map((chart) => chart.element)),
    curl.element,
  );
  poll({ seconds: POLL_SECONDS, onScrape, onError: errors.show, signal });
}

/** @param {ReturnType<typeof tiles>} board @param {ReturnType<typeof wholeService>} service @param {Reading} current */
function showTiles(board, service, current) {
  board.set("Models ready", `${service.numReady} of ${service.numModels}`, service.unready.join(", "));
  board.set("In flight", short(service.inFlight), "requests");
  board.set("Waiting", short(current.waiting), "rows and texts");
  board.set("Requests/s", short(current.requests), "to models");
  board.set("Rows/s", short(current.rows), current.failures ? `${short(current.failures)} refused/s` : "computed");
  board.set("Tokens/s", short(current.tokens), `${short(current.running)} texts in progress`);
  board.set("Engine restarts", short(service.restarts), "since the start");
  const mebibytes = (/** @type {number} */ bytes) => `${short(bytes / 2 ** 20)} MiB`;
  const models = `models ${short(service.modelBytes / 2 ** 20)} of ${mebibytes(service.maxModelBytes)}`;
  const others = `${models}, API ${mebibytes(service.apiBytes)}`;
  board.set("Memory", service.engineBytes ? mebibytes(service.engineBytes) : "–", others);
}

/** The card of batch sizes, counted since the page was opened or since the last restart. */
function batchCard() {
  /** @type {Scrape | null} */
  let since = null;
  /** @type {{now: Scrape, model: string | null} | null} */
  let shown = null;
  const frame = h("div");
  const reasons = h("div");
  const element = h(
    "section",
    { class: "card batch-sizes" },
    h("div", { class: "row spread" }, h("h2", {}, "Batch sizes"), button("Reset", () => restart(shown?.now ?? null), { kind: "small" })),
    h("p", { class: "muted chart-hint" }, "Batches by their rows, steps of language models by their texts, since this page was opened or the latest burst began."),
    frame,
    h("h3", { class: "muted chart-hint" }, "Why batches left the queue"),
    reasons,
  );

  /** @param {Scrape} now @param {string | null} model */
  function show(now, model) {
    since ??= now;
    shown = { now, model };
    frame.replaceChildren(histogram(batchSizes(now, since, model), { label: "Batches by size", unit: "batches" }));
    const rows = departures(now, since, model).map(({ label, count }) => ({ label, value: count, text: short(count) }));
    reasons.replaceChildren(bars(rows, { max: Math.max(...rows.map(({ value }) => value), 1), label: "Batches by why they left" }));
  }

  /** @param {Scrape | null} now */
  function restart(now) {
    since = now;
    if (now) show(now, shown?.model ?? null);
  }

  return { element, show, restart };
}
