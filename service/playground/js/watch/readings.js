/** What two scrapes of `/metrics` say of the service, or of one of its models. */

import { buckets, bucketsDelta, pick, quantile, rate, total } from "../metrics.js";

/** @import { LabelFilter, Scrape } from "../types.d.ts" */
/** @typedef {ReturnType<typeof reading>} Reading */

const REASONS = [
  { reason: "full", words: "full" },
  { reason: "window", words: "window over" },
  { reason: "deadline", words: "deadline near" },
  { reason: "idle", words: "device idle" },
];
const MIN_COLUMNS = 6; // up to 32 rows

/**
 * Requests to a model, or to any; the page's own files and scrapes have no model.
 *
 * @param {string | null} model
 * @returns {LabelFilter}
 */
const scope = (model) => ({ model: model ?? ((name) => name !== "") });

/**
 * The numbers of the moment; rates and percentiles need an earlier scrape and are null without.
 *
 * @param {Scrape} now
 * @param {Scrape | null} before
 * @param {string | null} model
 */
export function reading(now, before, model) {
  const labels = scope(model);
  const value = (/** @type {string} */ name) => total(now.samples, name, labels);
  const perSecond = (/** @type {string} */ name) => (before ? rate(now, before, name, labels) : null);
  const since = (/** @type {string} */ name) =>
    before ? bucketsDelta(buckets(now.samples, name, labels), buckets(before.samples, name, labels)) : [];
  const latency = since("hotplate_request_seconds");
  const queue = since("hotplate_queue_seconds");
  return {
    requests: perSecond("hotplate_requests_total"),
    rows: perSecond("hotplate_rows_total"),
    tokens: perSecond("hotplate_generated_tokens_total"),
    failures: perSecond("hotplate_failures_total"),
    waiting: value("hotplate_queue_depth") + value("hotplate_sequences_waiting"),
    running: value("hotplate_sequences_running"),
    p50: quantile(latency, 0.5),
    p95: quantile(latency, 0.95),
    p99: quantile(latency, 0.99),
    queueP50: quantile(queue, 0.5),
    queueP99: quantile(queue, 0.99),
  };
}

/**
 * What concerns the whole service: its models, its processes, and the requests in flight without this page's scrape.
 *
 * @param {Scrape} scrape
 */
export function wholeService({ samples }) {
  const states = pick(samples, "hotplate_model_state").filter((sample) => sample.value === 1);
  const unready = states.filter((sample) => !["ready", "idle"].includes(sample.labels.state));
  const memory = (/** @type {string} */ process) => total(samples, "hotplate_process_resident_bytes", { process });
  return {
    numModels: states.length,
    numReady: states.length - unready.length,
    unready: unready.map((sample) => `${sample.labels.model}: ${sample.labels.state}`),
    restarts: total(samples, "hotplate_engine_restarts_total"),
    inFlight: Math.max(0, total(samples, "hotplate_requests_in_flight") - 1),
    engineBytes: memory("engine"),
    apiBytes: memory("api"),
    modelBytes: total(samples, "hotplate_model_memory_bytes"),
    maxModelBytes: total(samples, "hotplate_max_model_memory_bytes"),
  };
}

/**
 * Batches by their rows, steps of language models by their texts, since an earlier scrape: columns for `histogram`.
 *
 * @param {Scrape} now
 * @param {Scrape} since
 * @param {string | null} model
 */
export function batchSizes(now, since, model) {
  const labels = scope(model);
  const counted = ["hotplate_batch_size", "hotplate_step_sequences"].map((name) =>
    bucketsDelta(buckets(now.samples, name, labels), buckets(since.samples, name, labels)),
  );
  /** @type {Map<number, number>} */
  const sums = new Map();
  for (const { le, count } of counted.flat()) sums.set(le, (sums.get(le) ?? 0) + count);
  const all = [...sums].sort(([a], [b]) => a - b);
  const numColumns = Math.max(MIN_COLUMNS, all.findLastIndex(([, count]) => count > 0) + 1);
  return all.slice(0, numColumns).map(([le, count], index) => ({ label: rangeLabel(le, all[index - 1]?.[0] ?? 0), count }));
}

/**
 * Batches by why they left the queue, since an earlier scrape.
 *
 * @param {Scrape} now
 * @param {Scrape} since
 * @param {string | null} model
 */
export function departures(now, since, model) {
  return REASONS.map(({ reason, words }) => {
    const labels = { ...scope(model), reason };
    const count = total(now.samples, "hotplate_batches_total", labels) - total(since.samples, "hotplate_batches_total", labels);
    return { label: words, count: Math.max(0, count) };
  });
}

/** @param {number} upper @param {number} lower */
function rangeLabel(upper, lower) {
  if (upper === Infinity) return `>${lower}`;
  return upper - lower <= 1 ? String(upper) : `${lower + 1}–${upper}`;
}
