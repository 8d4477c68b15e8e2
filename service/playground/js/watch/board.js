/** The numbers and charts that follow `/metrics`: tiles of the moment, lines of the last minutes. */

import { lines } from "../charts.js";
import { h } from "../dom.js";
import { seconds, short } from "../format.js";

/** @import { Format } from "../charts.js" */
/** @import { Reading } from "./readings.js" */
/** @typedef {{name: string, of: (reading: Reading) => number | null}[]} ChartSeries */

const NUM_VALUES = 120;

/**
 * Numbers with names; `set` gives one its text and a small line below.
 *
 * @param {string[]} names
 */
export function tiles(names) {
  const values = new Map(names.map((name) => [name, { value: h("dd", {}, "–"), detail: h("dd", { class: "muted tile-detail" }) }]));
  const all = [...values].map(([name, { value, detail }]) => h("div", { class: "tile" }, h("dt", { class: "muted" }, name), value, detail));

  /** @param {string} name @param {string} text */
  function set(name, text, detail = "") {
    const tile = values.get(name);
    if (!tile) throw new Error(`There is no tile "${name}".`);
    tile.value.textContent = text;
    tile.detail.textContent = detail;
  }

  return { element: h("dl", { class: "tiles" }, all), set };
}

/**
 * A card with lines of the last two minutes, from readings.
 *
 * @param {{title: string, hint: string, series: ChartSeries, format?: Format, span: string}} options
 */
function chartCard({ title, hint, series, format = short, span }) {
  const history = series.map(({ name }) => ({ name, values: /** @type {(number | null)[]} */ (new Array(NUM_VALUES).fill(null)) }));
  const frame = h("div");
  const draw = () => frame.replaceChildren(lines(history, { label: title, format, span }));
  draw();

  /** @param {Reading} reading */
  function add(reading) {
    series.forEach(({ of }, index) => {
      history[index].values.shift();
      history[index].values.push(of(reading));
    });
    draw();
  }

  function reset() {
    for (const one of history) one.values.fill(null);
    draw();
  }

  return { element: h("section", { class: "card" }, h("h2", {}, title), h("p", { class: "muted chart-hint" }, hint), frame), add, reset };
}

/**
 * The charts of the page; `span` is the time that they show, in words.
 *
 * @param {string} span
 */
export function chartCards(span) {
  return [
    chartCard({
      title: "Throughput",
      hint: "A request may hold several rows: images, tiles, latents.",
      series: [
        { name: "requests/s", of: (reading) => reading.requests },
        { name: "rows/s", of: (reading) => reading.rows },
      ],
      span,
    }),
    chartCard({
      title: "Latency",
      hint: "From a request's head to the last byte of its answer, as the service sees it.",
      series: [
        { name: "p50", of: (reading) => reading.p50 },
        { name: "p95", of: (reading) => reading.p95 },
        { name: "p99", of: (reading) => reading.p99 },
      ],
      format: seconds,
      span,
    }),
    chartCard({
      title: "Time in the queue",
      hint: "From a request's arrival at the engine to the start of its first batch.",
      series: [
        { name: "p50", of: (reading) => reading.queueP50 },
        { name: "p99", of: (reading) => reading.queueP99 },
      ],
      format: seconds,
      span,
    }),
    chartCard({
      title: "Queue depth",
      hint: "Rows and texts that wait, and texts being written, at each reading.",
      series: [
        { name: "waiting", of: (reading) => reading.waiting },
        { name: "writing", of: (reading) => reading.running },
      ],
      span,
    }),
    chartCard({
      title: "Tokens",
      hint: "Tokens that language models generate, per second.",
      series: [{ name: "tokens/s", of: (reading) => reading.tokens }],
      span,
    }),
  ];
}
