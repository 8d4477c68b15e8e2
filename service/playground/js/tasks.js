/** The tasks that have a page: their words, their addresses, and which of the listed models do them, `first` foremost. */

/** @import { ModelEntry } from "./types.d.ts" */

export const TASKS = [
  { task: "image-classification", page: "classify", verb: "Classify", title: "Classify images", first: "mnist" },
  { task: "style-transfer", page: "stylize", verb: "Stylise", title: "Stylise photographs", first: "painter" },
  { task: "text-generation", page: "write", verb: "Write", title: "Write text", first: "novelist" },
  { task: "image-generation", page: "draw", verb: "Draw", title: "Draw images", first: "fashion-gan" },
];

/**
 * One entry for each model name: a version that is ready, else the first.
 *
 * @param {ModelEntry[]} models
 */
export function distinct(models) {
  /** @type {Map<string, ModelEntry>} */
  const byName = new Map();
  for (const model of models) {
    const known = byName.get(model.id);
    if (!known || (known.state !== "ready" && model.state === "ready")) byName.set(model.id, model);
  }
  return [...byName.values()];
}

/**
 * The models of a task that are ready.
 *
 * @param {ModelEntry[]} models
 * @param {string} task
 */
export function modelsOf(models, task) {
  const first = TASKS.find((one) => one.task === task)?.first;
  const ready = distinct(models).filter((model) => model.task === task && model.state === "ready");
  return ready.sort((a, b) => Number(b.id === first) - Number(a.id === first));
}

/**
 * The address of the page that tries a model; null where no page does its task.
 *
 * @param {{id: string, task: string}} model
 */
export function addressOf(model) {
  const found = TASKS.find((one) => one.task === model.task);
  return found ? `#/${found.page}/${encodeURIComponent(model.id)}` : null;
}
