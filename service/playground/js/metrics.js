/** Reads the Prometheus text of `/metrics`: samples, rates and quantiles between two scrapes. It draws nothing. */

import { request } from "./api.js";

const LINE = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)/;
const LABEL = /([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"/g;
const NUMBERS = { "+Inf": Infinity, "-Inf": -Infinity, NaN: NaN };

/** All samples of an exposition: `{name, labels, value}`. */
export function parse(text) {
  const samples = [];
  for (const line of text.split("\n")) {
    const match = line.startsWith("#") ? null : LINE.exec(line);
    if (match === null) continue;
    const labels = {};
    for (const [, name, value] of (match[2] ?? "").matchAll(LABEL)) {
      labels[name] = value.replace(/\\(.)/g, (_, escaped) => (escaped === "n" ? "\n" : escaped));
    }
    samples.push({ name: match[1], labels, value: NUMBERS[match[3]] ?? Number(match[3]) });
  }
  return samples;
}

/** The samples of a name whose labels are as told, or pass the function that is told. */
export function pick(samples, name, labels = {}) {
  const wanted = Object.entries(labels);
  const fits = (value, told) => (typeof told === "function" ? told(value) : value === told);
  return samples.filter((sample) => sample.name === name && wanted.every(([label, told]) => fits(sample.labels[label], told)));
}

/** The sum of the samples of a name and labels. */
export function total(samples, name, labels = {}) {
  return pick(samples, name, labels).reduce((sum, sample) => sum + sample.value, 0);
}

/** The buckets of a histogram `name`, summed over what the labels leave open: `[{le, count}]`, each count its own. */
export function buckets(samples, name, labels = {}) {
  const sums = new Map();
  for (const sample of pick(samples, `${name}_bucket`, labels)) {
    const bound = NUMBERS[sample.labels.le] ?? Number(sample.labels.le);
    sums.set(bound, (sums.get(bound) ?? 0) + sample.value);
  }
  const cumulative = [...sums].sort(([a], [b]) => a - b);
  return cumulative.map(([le, count], index) => ({ le, count: count - (index ? cumulative[index - 1][1] : 0) }));
}

/** What was counted in each bucket between two scrapes. */
export function bucketsDelta(now, before) {
  const earlier = new Map(before.map(({ le, count }) => [le, count]));
  return now.map(({ le, count }) => ({ le, count: Math.max(0, count - (earlier.get(le) ?? 0)) }));
}

/** The quantile `q` of buckets, interpolated within one as Prometheus does; null where nothing was counted. */
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

/** Events per second between two scrapes `{samples, time}` of a counter `name`; 0 where it went back. */
export function rate(now, before, name, labels = {}) {
  const seconds = (now.time - before.time) / 1000;
  return seconds > 0 ? Math.max(0, total(now.samples, name, labels) - total(before.samples, name, labels)) / seconds : 0;
}

/** Fetch `/metrics` once: `{samples, time}`, the time in milliseconds. */
export async function scrape(signal) {
  const response = await request("/metrics", { signal });
  return { samples: parse(await response.text()), time: performance.now() };
}

/**
 * Scrape every so many seconds and call back with `(now, before)`, both `{samples, time}`, `before` null at first; a tab
 * that is hidden does not ask. `onError(error)` hears of failures. Ends with the signal.
 */
export function poll(seconds, callback, signal, onError = () => {}) {
  let before = null;
  let timer = 0;

  async function turn() {
    try {
      if (!document.hidden) {
        const now = await scrape(signal);
        if (signal.aborted) return;
        callback(now, before);
        before = now;
      }
    } catch (error) {
      if (signal.aborted) return;
      onError(error);
    }
    timer = setTimeout(turn, seconds * 1000);
  }

  signal.addEventListener("abort", () => clearTimeout(timer));
  turn();
}
