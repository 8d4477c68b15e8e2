/** The tasks that have a page: their words, their addresses, and which of the listed models do them, `first` foremost. */

/** @import { ModelEntry } from "./types.d.ts" */

/** `takesPictures` where one picture is shown to all of a task's models. */
export const TASKS = [
  { task: "image-classification", page: "classify", verb: "Classify", title: "Classify images", invitation: "classify an image", first: "mnist", takesPictures: true },
  { task: "style-transfer", page: "stylize", verb: "Stylise", title: "Stylise photographs", invitation: "paint a photograph", first: "painter", takesPictures: true },
  { task: "text-generation", page: "write", verb: "Write", title: "Write text", invitation: "begin a sentence", first: "novelist", takesPictures: false },
  { task: "text-correction", page: "correct", verb: "Correct", title: "Correct spelling", invitation: "misspell a word", first: "corrector", takesPictures: false },
  { task: "image-generation", page: "draw", verb: "Draw", title: "Draw images", invitation: "draw from a seed", first: "fashion-gan", takesPictures: true },
];

/**
 * Whether a version answers requests: at once, or after it is loaded again.
 *
 * @param {{state: string}} version
 */
export const isUsable = ({ state }) => state === "ready" || state === "idle";

/**
 * One entry for each model name: a version that answers requests, else the first.
 *
 * @param {ModelEntry[]} models
 */
export function distinct(models) {
  /** @type {Map<string, ModelEntry>} */
  const byName = new Map();
  for (const model of models) {
    const known = byName.get(model.id);
    if (!known || (!isUsable(known) && isUsable(model))) byName.set(model.id, model);
  }
  return [...byName.values()];
}

/**
 * The models of a task that answer requests.
 *
 * @param {ModelEntry[]} models
 * @param {string} task
 */
export function modelsOf(models, task) {
  const first = TASKS.find((one) => one.task === task)?.first;
  const ready = distinct(models).filter((model) => model.task === task && isUsable(model));
  return ready.sort((a, b) => Number(b.id === first) - Number(a.id === first));
}

/**
 * The page of a model's task; undefined where it has none of its own.
 *
 * @param {{task: string}} model
 */
export const pageOf = (model) => TASKS.find((one) => one.task === model.task);

/**
 * The models whose task has no page of its own.
 *
 * @param {ModelEntry[]} models
 */
export const networksOf = (models) => distinct(models).filter((model) => !pageOf(model));

/**
 * Whether a model as a whole is one graph that takes tensors; a text generator is not, though its graphs are.
 *
 * @param {{task: string}} model
 */
export const takesTensors = (model) => model.task !== "text-generation";

/**
 * The address of the page that calls a network, or one graph of it, by its tensors.
 *
 * @param {string} name
 */
export const tensorsAddress = (name) => `#/tensors/${encodeURIComponent(name)}`;

/**
 * The address of the page that tries a model: that of its task, else that of any network.
 *
 * @param {{id: string, task: string}} model
 */
export function addressOf(model) {
  const found = pageOf(model);
  return found ? `#/${found.page}/${encodeURIComponent(model.id)}` : tensorsAddress(model.id);
}
