/** The engine at work: tiles, charts and batch sizes from `/metrics`, and a burst of requests to see batches form. */

import { config } from "../api.js";
import { histogram, short } from "../charts.js";
import { button, errorBox, select } from "../controls.js";
import { curlPanel } from "../curl.js";
import { h, useStyle } from "../dom.js";
import { poll } from "../metrics.js";
import { distinct } from "../tasks.js";
import { chartCards, tiles } from "../watch/board.js";
import { burstPanel } from "../watch/burst_panel.js";
import { batchSizes, reading, wholeService } from "../watch/readings.js";

const POLL_SECONDS = 1;
const ALL = "all models";
const TILES = ["Models ready", "In flight", "Waiting", "Requests/s", "Rows/s", "Tokens/s", "Engine restarts", "Memory"];

export const title = "Watch";

export default async function page(root, { models, signal }) {
  const [settings] = await Promise.all([config(), useStyle("watch")]);
  if (signal.aborted) return;
  const errors = errorBox();
  const board = tiles(TILES);
  const charts = chartCards("last two minutes");
  const sizes = batchCard();
  let model = null;
  let latestScrape = null;

  const names = distinct(models).map((one) => one.id);
  const which = select({ label: "Show", options: [ALL, ...names], onInput: (name) => look(name === ALL ? null : name) });
  const burst = burstPanel({
    models,
    isAllowed: settings.burst_allowed,
    signal,
    onBegin: () => sizes.restart(latestScrape),
  });

  function look(next) {
    model = next;
    for (const chart of charts) chart.reset();
    if (latestScrape) sizes.show(latestScrape, model);
  }

  function observe(now, before) {
    latestScrape = now;
    errors.hide();
    const seen = reading(now, before, model);
    showTiles(board, wholeService(now), seen);
    for (const chart of charts) chart.add(seen);
    sizes.show(now, model);
  }

  const curl = curlPanel();
  curl.show({ path: "/metrics" });
  root.append(
    h(
      "div",
      { class: "row spread" },
      h("div", { class: "page-head" }, h("h1", {}, "The engine at work"), h("p", {}, "Read once a second from the metrics that Prometheus scrapes.")),
      which.element,
    ),
    board.element,
    errors.element,
    h("div", { class: "layout wide-left" }, burst, h("div", { class: "stack" }, sizes.element, charts[0].element)),
    h("div", { class: "charts" }, charts.slice(1).map((chart) => chart.element)),
    curl.element,
  );
  poll(POLL_SECONDS, observe, signal, errors.show);
}

function showTiles(board, service, seen) {
  const numModels = service.ready + service.unready.length;
  board.set("Models ready", `${service.ready} of ${numModels}`, service.unready.join(", "));
  board.set("In flight", short(service.inFlight), "requests");
  board.set("Waiting", short(seen.waiting), "rows and texts");
  board.set("Requests/s", short(seen.requests), "to models");
  board.set("Rows/s", short(seen.rows), seen.failures ? `${short(seen.failures)} refused/s` : "computed");
  board.set("Tokens/s", short(seen.tokens), `${short(seen.running)} texts under way`);
  board.set("Engine restarts", short(service.restarts), "since the start");
  const { engine = 0, api = 0 } = service.bytes;
  board.set("Memory", engine ? `${short(engine / 2 ** 20)} MiB` : "–", `API ${short(api / 2 ** 20)} MiB`);
}

/** The card of batch sizes, counted from when it was first shown, or restarted. */
function batchCard() {
  let since = null;
  let shown = null;
  const frame = h("div", {});
  const again = button("Count anew", () => shown && restart(shown.now), { kind: "small" });
  const element = h(
    "section",
    { class: "card batch-sizes" },
    h("div", { class: "row spread" }, h("h2", {}, "Batch sizes"), again),
    h("p", { class: "muted chart-hint" }, "Batches by their rows, steps of language models by their texts, since this page was opened or the latest burst began."),
    frame,
  );

  function show(now, model) {
    since ??= now;
    shown = { now, model };
    frame.replaceChildren(histogram(batchSizes(now, since, model), { label: "Batches by size", unit: "batches" }));
  }

  function restart(now) {
    since = now;
    if (now) show(now, shown?.model ?? null);
  }

  return { element, show, restart };
}
