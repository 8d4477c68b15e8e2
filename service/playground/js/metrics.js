/** Reads the Prometheus text of `/metrics`: samples, rates and quantiles between two scrapes. */

import { repeat, request } from "./api.js";

/** @import { Bucket, LabelFilter, MetricSample, Scrape } from "./types.d.ts" */

const LINE = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)/;
const LABEL = /([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"/g;

/** @param {string} text */
function numberOf(text) {
  if (text === "+Inf") return Infinity;
  return text === "-Inf" ? -Infinity : Number(text);
}

/**
 * All samples of an exposition.
 *
 * @param {string} text
 */
export function parse(text) {
  /** @type {MetricSample[]} */
  const samples = [];
  for (const line of text.split("\n")) {
    const [match, name, labelText = "", value] = LINE.exec(line) ?? [];
    if (match === undefined) continue;
    /** @type {Record<string, string>} */
    const labels = {};
    for (const [, label, content] of labelText.matchAll(LABEL)) {
      labels[label] = content.replace(/\\(.)/g, (_, escaped) => (escaped === "n" ? "\n" : escaped));
    }
    samples.push({ name, labels, value: numberOf(value) });
  }
  return samples;
}

/**
 * The samples of a metric whose labels pass a filter.
 *
 * @param {MetricSample[]} samples
 * @param {string} name
 * @param {LabelFilter} [filter]
 */
export function pick(samples, name, filter = {}) {
  const tests = Object.entries(filter);
  return samples.filter(
    (sample) =>
      sample.name === name &&
      tests.every(([label, test]) => (typeof test === "function" ? test(sample.labels[label]) : sample.labels[label] === test)),
  );
}

/**
 * The sum of the samples of a metric.
 *
 * @param {MetricSample[]} samples
 * @param {string} name
 * @param {LabelFilter} [filter]
 */
export function total(samples, name, filter) {
  return pick(samples, name, filter).reduce((sum, sample) => sum + sample.value, 0);
}

/**
 * The buckets of a histogram, summed over the labels that the filter leaves open; each count is its own, not cumulative.
 *
 * @param {MetricSample[]} samples
 * @param {string} name
 * @param {LabelFilter} [filter]
 * @returns {Bucket[]}
 */
export function buckets(samples, name, filter) {
  /** @type {Map<number, number>} */
  const sums = new Map();
  for (const sample of pick(samples, `${name}_bucket`, filter)) {
    const bound = numberOf(sample.labels.le);
    sums.set(bound, (sums.get(bound) ?? 0) + sample.value);
  }
  const cumulative = [...sums].sort(([a], [b]) => a - b);
  return cumulative.map(([le, count], index) => ({ le, count: count - (index ? cumulative[index - 1][1] : 0) }));
}

/**
 * What was counted in each bucket between two scrapes.
 *
 * @param {Bucket[]} now
 * @param {Bucket[]} before
 * @returns {Bucket[]}
 */
export function bucketsDelta(now, before) {
  const earlier = new Map(before.map(({ le, count }) => [le, count]));
  return now.map(({ le, count }) => ({ le, count: Math.max(0, count - (earlier.get(le) ?? 0)) }));
}

/**
 * The quantile `q`, interpolated within a bucket as Prometheus does; null where nothing was counted.
 *
 * @param {Bucket[]} counted
 * @param {number} q
 */
export function quantile(counted, q) {
  const all = counted.reduce((sum, { count }) => sum + count, 0);
  if (all === 0) return null;
  let seen = 0;
  let lower = 0;
  for (const { le, count } of counted) {
    if (count > 0 && seen + count >= q * all) {
      return le === Infinity ? lower : lower + ((q * all - seen) / count) * (le - lower);
    }
    seen += count;
    if (le !== Infinity) lower = le;
  }
  return lower;
}

/**
 * Events per second of a counter between two scrapes; 0 where it went back.
 *
 * @param {Scrape} now
 * @param {Scrape} before
 * @param {string} name
 * @param {LabelFilter} [filter]
 */
export function rate(now, before, name, filter) {
  const seconds = (now.time - before.time) / 1000;
  return seconds > 0 ? Math.max(0, total(now.samples, name, filter) - total(before.samples, name, filter)) / seconds : 0;
}

/**
 * Fetch `/metrics` once.
 *
 * @param {AbortSignal} signal
 * @returns {Promise<Scrape>}
 */
async function scrape(signal) {
  const response = await request("/metrics", { signal });
  return { samples: parse(await response.text()), time: performance.now() };
}

/**
 * Scrape every so many seconds, also after a failure, until the signal aborts; a hidden tab does not ask. `onScrape` gets
 * the scrape and the one before, null at first.
 *
 * @param {object} options
 * @param {number} options.seconds
 * @param {(now: Scrape, before: Scrape | null) => unknown} options.onScrape
 * @param {(error: unknown) => boolean | void} options.onError
 * @param {AbortSignal} options.signal
 */
export function poll({ seconds, onScrape, onError, signal }) {
  /** @type {Scrape | null} */
  let before = null;

  async function work() {
    if (document.hidden) return;
    const now = await scrape(signal);
    if (signal.aborted) return;
    onScrape(now, before);
    before = now;
  }

  repeat({ seconds, work, onError, signal });
}
