/** The numbers and charts that follow `/metrics`: tiles of the moment, lines of the last minutes. */

import { lines, seconds, short } from "../charts.js";
import { h } from "../dom.js";

const NUM_VALUES = 120;

/** Numbers with names: `{element, set(name, text, detail)}`; the detail is a small line below. */
export function tiles(names) {
  const values = new Map(names.map((name) => [name, { value: h("dd", {}, "–"), detail: h("dd", { class: "muted tile-detail" }) }]));
  const tile = (name) => h("div", { class: "tile" }, h("dt", { class: "muted" }, name), values.get(name).value, values.get(name).detail);
  return {
    element: h("dl", { class: "tiles" }, names.map(tile)),
    set(name, text, detail = "") {
      values.get(name).value.textContent = text;
      values.get(name).detail.textContent = detail;
    },
  };
}

/**
 * A card with lines of the last two minutes, from readings: `series` is `[{name, of: (reading) => number or null}]`.
 * `{element, add(reading), reset()}`.
 */
function chartCard({ title, hint, series, format = short, span }) {
  const history = series.map(({ name }) => ({ name, values: new Array(NUM_VALUES).fill(null) }));
  const frame = h("div", {});
  const draw = () => frame.replaceChildren(lines(history, { label: title, format, span }));
  draw();
  return {
    element: h("section", { class: "card" }, h("h2", {}, title), h("p", { class: "muted chart-hint" }, hint), frame),
    add(reading) {
      series.forEach(({ of }, index) => {
        history[index].values.shift();
        history[index].values.push(of(reading));
      });
      draw();
    },
    reset() {
      for (const one of history) one.values.fill(null);
      draw();
    },
  };
}

/** The charts of a reading, and for each language model its tokens. */
export function chartCards(span) {
  return [
    chartCard({
      title: "Throughput",
      hint: "A request may hold several rows: pictures, tiles, latents.",
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
      hint: "Rows and texts that wait, and texts that are being written, when asked.",
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
