/** One model in the list: its card in short, and what it does right now. */

import { card } from "../api.js";
import { seconds, short, sparkline } from "../charts.js";
import { clear, h } from "../dom.js";
import { buckets, bucketsDelta, quantile, rate } from "../metrics.js";
import { addressOf } from "../tasks.js";
import { factsOf, scoreOf } from "./facts.js";

const NUM_VALUES = 60;

/** The row of a listed model: `{element, fill(), observe(now, before)}`. */
export function modelRow(model, signal) {
  const address = addressOf(model);
  const isReady = model.state === "ready";
  const score = h("div", { class: "model-score" });
  const facts = h("dl", { class: "facts model-facts" });
  const rates = gauge("Requests per second", short);
  const latencies = gauge("99th percentile of the latency", seconds);
  const element = h(
    "li",
    { class: "card model", dataset: { model: model.id } },
    h(
      "div",
      { class: "model-head" },
      h("h3", {}, address && isReady ? h("a", { href: address }, model.id) : model.id),
      isReady ? null : h("span", { class: "tag bad" }, model.state),
      h("p", { class: "muted" }, isReady ? model.description : model.reason || model.description),
    ),
    score,
    facts,
    h("div", { class: "model-live" }, live("requests/s", rates), live("p99", latencies)),
  );

  async function fill() {
    const told = await card(`${model.id}@${model.version}`, { signal });
    const best = scoreOf(told.manifest);
    if (best) clear(score).append(h("b", {}, best.value), h("small", { class: "muted" }, best.words));
    clear(facts).append(...factsOf(told).flatMap(([name, text]) => [h("dt", {}, name), h("dd", {}, text)]));
  }

  function observe(now, before) {
    const labels = { model: model.id };
    const perSecond = before ? rate(now, before, "hotplate_requests_total", labels) : null;
    const counted = (scraped) => buckets(scraped.samples, "hotplate_request_seconds", labels);
    rates.add(perSecond);
    latencies.add(before ? quantile(bucketsDelta(counted(now), counted(before)), 0.99) : null);
  }

  return { element, fill, observe };
}

function live(name, { value, chart }) {
  return h("div", { class: "live" }, h("span", { class: "muted" }, name), value, chart);
}

/** A number with the line of its latest values; the number stays while nothing new is known. */
function gauge(label, format) {
  const values = new Array(NUM_VALUES).fill(null);
  const value = h("b", {}, "–");
  const chart = h("div", {}, sparkline(values, { label }));

  function add(next) {
    values.shift();
    values.push(next);
    const known = values.filter((one) => one !== null);
    const text = known.length ? `now ${next === null ? "idle" : format(next)}, highest ${format(Math.max(...known))}` : undefined;
    value.textContent = format(known.at(-1) ?? null);
    chart.replaceChildren(sparkline(values, { label, text }));
  }

  return { value, chart, add };
}
