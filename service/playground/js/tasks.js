/** The tasks that have a page: their words, their addresses, and which of the listed models do them, `first` foremost. */

export const TASKS = [
  { task: "image-classification", page: "classify", verb: "Classify", title: "Classify pictures", first: "mnist" },
  { task: "style-transfer", page: "stylize", verb: "Stylise", title: "Paint photographs", first: "painter" },
  { task: "text-generation", page: "write", verb: "Write", title: "Write text", first: "novelist" },
  { task: "image-generation", page: "draw", verb: "Draw", title: "Draw pictures", first: "fashion-gan" },
];

/** One entry for each model name, the version that serves first; those that are ready before those that are not. */
export function distinct(models) {
  const byName = new Map();
  for (const model of models) {
    const known = byName.get(model.id);
    if (!known || (known.state !== "ready" && model.state === "ready")) byName.set(model.id, model);
  }
  return [...byName.values()];
}

/** The models of a task that are ready. */
export function modelsOf(models, task) {
  const first = TASKS.find((one) => one.task === task)?.first;
  const fitting = distinct(models).filter((model) => model.task === task && model.state === "ready");
  return fitting.sort((a, b) => (b.id === first) - (a.id === first));
}

/** The address of the page that tries a model; null where no page does its task. */
export function addressOf(model) {
  const found = TASKS.find((one) => one.task === model.task);
  return found ? `#/${found.page}/${encodeURIComponent(model.id)}` : null;
}
