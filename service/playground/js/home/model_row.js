/** One model in the list: its card in short, and its load right now. */

import { modelCard } from "../api.js";
import { sparkline } from "../charts.js";
import { clear, h } from "../dom.js";
import { rough, seconds, short } from "../format.js";
import { buckets, bucketsDelta, quantile, rate } from "../metrics.js";
import { addressOf, isUsable, pageOf } from "../tasks.js";

/** @import { Evaluation, Manifest, ModelCard, ModelEntry, Scrape, TensorSpec } from "../types.d.ts" */

const NUM_VALUES = 60;
const MAX_NAMES = 3;

const whole = new Intl.NumberFormat("en");

/** @param {Evaluation} entry */
const isTest = (entry) => entry.split === "test";
/** @param {number} value */
const percent = (value) => `${(value * 100).toFixed(Math.round(value * 1e4) % 10 ? 2 : 1)} %`;

/**
 * Of a model's evaluation, the entry that says most, by task; the first that it has counts.
 *
 * @type {{metric: string, fits: (entry: Evaluation) => boolean, value: (value: number) => string, words: (entry: Evaluation) => string}[]}
 */
const SCORES = [
  { metric: "accuracy", fits: isTest, value: percent, words: (entry) => `accuracy on ${whole.format(entry.count ?? 0)} test images` },
  { metric: "bits_per_byte", fits: isTest, value: (value) => value.toFixed(3), words: ({ dataset }) => `bits per byte of unseen ${dataset ?? "texts"}` },
  { metric: "word_error_rate", fits: isTest, value: percent, words: () => "of words wrong after correction" },
  {
    metric: "share of pictures that the classifier calls by their label",
    fits: () => true,
    value: percent,
    words: () => "recognised by the classifier",
  },
  {
    metric: "gatys_k_adam",
    fits: (entry) => entry.split === "held-out",
    value: (value) => value.toFixed(0),
    words: () => "steps of optimisation to match it",
  },
];

/**
 * The best-known score of a model; null where it has none.
 *
 * @param {Manifest} manifest
 */
function scoreOf(manifest) {
  for (const { metric, fits, value, words } of SCORES) {
    const entry = manifest.evaluation?.find((one) => one.metric === metric && fits(one));
    if (entry) return { value: value(entry.value), words: words(entry) };
  }
  return null;
}

/**
 * The facts of a card; those that it does not have are left out.
 *
 * @param {ModelCard} card
 */
function factsOf({ manifest, device, precision }) {
  const parameters = manifest.training?.parameters;
  const [graph] = pageOf(manifest) ? [] : Object.values(manifest.graphs ?? {}); // none while it loads
  /** @type {[string, string | null | undefined, string?][]} */
  const facts = [
    ["Data", manifest.evaluation?.[0]?.dataset],
    ["Parameters", parameters ? rough(parameters) : null, parameters ? whole.format(parameters) : ""],
    ["Takes", graph && tensorsText(graph.inputs)],
    ["Answers", graph && tensorsText(graph.outputs)],
    ["Device", device],
    ["Precision", precision?.precision, precision?.reason],
  ];
  return facts.filter(([, text]) => text);
}

/** The first tensors by name, the rest by number. @param {TensorSpec[]} tensors */
function tensorsText(tensors) {
  const names = tensors.slice(0, MAX_NAMES).map(({ name }) => name);
  return [...names, ...(tensors.length > MAX_NAMES ? [`${tensors.length - MAX_NAMES} more`] : [])].join(", ");
}

/** @param {ModelEntry} model @param {AbortSignal} signal */
export function modelRow(model, signal) {
  const isReady = isUsable(model);
  const score = h("div", { class: "model-score" });
  const facts = h("dl", { class: "facts model-facts" });
  const rates = gauge("Requests per second", short);
  const latencies = gauge("99th percentile of the latency", seconds);
  // Until the first request there is nothing to chart.
  const traffic = h("div", { class: "model-live", hidden: true }, live("requests/s", rates), live("p99", latencies));
  const element = h(
    "li",
    { class: "card model", dataset: { model: model.id } },
    h(
      "div",
      { class: "model-head" },
      h("h3", {}, isReady ? h("a", { href: addressOf(model) }, model.id) : model.id),
      model.state === "ready" ? null : h("span", { class: isReady ? "tag" : "tag bad" }, model.state),
      h("p", { class: "muted" }, isReady ? model.description : model.reason || model.description),
    ),
    score,
    facts,
    traffic,
  );

  /** Fetch the card, which is slower than the list. */
  async function fill() {
    const card = await modelCard(`${model.id}@${model.version}`, { signal });
    const best = scoreOf(card.manifest);
    if (best) clear(score).append(h("b", {}, best.value), h("small", { class: "muted" }, best.words));
    clear(facts).append(...factsOf(card).flatMap(([name, text, title]) => [h("dt", {}, name), h("dd", { title }, text)]));
  }

  /** @param {Scrape} now @param {Scrape | null} before */
  function observe(now, before) {
    const labels = { model: model.id };
    const latency = (/** @type {Scrape} */ { samples }) => buckets(samples, "hotplate_request_seconds", labels);
    const perSecond = before && rate(now, before, "hotplate_requests_total", labels);
    if (perSecond) traffic.hidden = false;
    rates.add(perSecond);
    latencies.add(before && quantile(bucketsDelta(latency(now), latency(before)), 0.99));
  }

  return { element, fill, observe };
}

/** @param {string} name @param {ReturnType<typeof gauge>} gauge */
function live(name, { value, chart }) {
  return h("div", { class: "live" }, h("span", { class: "muted" }, name), value, chart);
}

/**
 * A number with the line of its latest values; the number stays while nothing new is known.
 *
 * @param {string} label
 * @param {(value: number | null) => string} format
 */
function gauge(label, format) {
  /** @type {(number | null)[]} */
  const values = new Array(NUM_VALUES).fill(null);
  const value = h("b", {}, "–");
  const chart = h("div", {}, sparkline(values, { label }));

  /** @param {number | null} next */
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
