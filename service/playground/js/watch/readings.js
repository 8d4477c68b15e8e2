/** What two scrapes of `/metrics` say of the service, or of one of its models. It draws nothing. */

import { buckets, bucketsDelta, pick, quantile, rate, total } from "../metrics.js";

// Requests that reached a model; the page's own files and scrapes have no model.
const scope = (model) => ({ model: model ?? ((name) => name !== "") });

/** The numbers of the moment; rates and percentiles need an earlier scrape and are null without. */
export function reading(now, before, model = null) {
  const labels = scope(model);
  const value = (name, more = {}) => total(now.samples, name, { ...labels, ...more });
  const perSecond = (name) => (before ? rate(now, before, name, labels) : null);
  const between = (name) => {
    if (!before) return [];
    return bucketsDelta(buckets(now.samples, name, labels), buckets(before.samples, name, labels));
  };
  const latency = between("hotplate_request_seconds");
  const queue = between("hotplate_queue_seconds");
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

/** What concerns the whole service: its models, its processes, and the requests under way without this page's scrape. */
export function wholeService({ samples }) {
  const states = pick(samples, "hotplate_model_state").filter((sample) => sample.value === 1);
  const bytes = Object.fromEntries(
    pick(samples, "hotplate_process_resident_bytes").map((sample) => [sample.labels.process, sample.value]),
  );
  return {
    ready: states.filter((sample) => sample.labels.state === "ready").length,
    unready: states.filter((sample) => sample.labels.state !== "ready").map((sample) => `${sample.labels.model}: ${sample.labels.state}`),
    restarts: total(samples, "hotplate_engine_restarts_total"),
    inFlight: Math.max(0, total(samples, "hotplate_requests_in_flight") - 1),
    bytes,
  };
}

/** Batches by their rows, steps of language models by their texts, since an earlier scrape: columns for `histogram`. */
export function batchSizes(now, since, model = null) {
  const labels = scope(model);
  const counted = ["hotplate_batch_size", "hotplate_step_sequences"].map((name) =>
    bucketsDelta(buckets(now.samples, name, labels), buckets(since.samples, name, labels)),
  );
  const sums = new Map();
  for (const { le, count } of counted.flat()) sums.set(le, (sums.get(le) ?? 0) + count);
  const all = [...sums].sort(([a], [b]) => a - b);
  const last = Math.max(6, all.findLastIndex(([, count]) => count > 0) + 1); // up to 32, and on where there are larger
  return all.slice(0, last).map(([le, count], index) => ({ label: rangeLabel(le, all[index - 1]?.[0] ?? 0), count }));
}

function rangeLabel(upper, lower) {
  if (upper === Infinity) return `>${lower}`;
  return upper - lower <= 1 ? String(upper) : `${lower + 1}–${upper}`;
}
