/** The first page: what this service serves, each model with its card in short and its load right now. */

import { errorBox } from "../controls.js";
import { h, useStyle } from "../dom.js";
import { modelRow } from "../home/row.js";
import { strip } from "../home/strip.js";
import { pick, poll } from "../metrics.js";
import { TASKS, addressOf, distinct, modelsOf } from "../tasks.js";

const POLL_SECONDS = 2;

export const title = "Models";

export default async function page(root, { models, signal, again }) {
  await useStyle("home");
  if (signal.aborted) return;
  const errors = errorBox();
  const served = distinct(models);
  const sections = [...TASKS, { task: null, title: "More models" }].map((task) => section(task, served, signal));
  const rows = sections.flatMap((one) => one.rows);
  const drawn = hero(served, models, signal);
  root.append(drawn.element, errors.element, ...sections.filter((one) => one.rows.length).map((one) => one.element));
  drawn.begin();
  poll(
    POLL_SECONDS,
    (now, before) => {
      errors.hide();
      if (before && statesOf(now) !== statesOf(before)) return again();
      for (const row of rows) row.observe(now, before);
      return undefined;
    },
    signal,
    errors.show,
  );
  await Promise.all(rows.map((row) => row.fill())).catch((error) => {
    if (!signal.aborted) errors.show(error);
  });
}

/** Which model versions are in which states, to see that one was loaded, failed or went away. */
function statesOf({ samples }) {
  const states = pick(samples, "hotplate_model_state").filter(({ value }) => value === 1);
  return states.map(({ labels }) => `${labels.model} ${labels.version} ${labels.state}`).join();
}

function hero(served, models, signal) {
  const numReady = served.filter((model) => model.state === "ready").length;
  const generator = modelsOf(models, "image-generation")[0];
  const shown = generator ? strip(generator, signal) : null;
  const links = TASKS.map((task) => ({ ...task, first: modelsOf(models, task.task)[0] })).filter((task) => task.first);
  const sentences = ["No model is ready yet.", "One model runs here. Try it."];
  const sentence = sentences[numReady] ?? `${numReady} models run here. Try each of them.`;
  const element = h(
    "section",
    { class: "hero", "aria-labelledby": "hero-title" },
    h(
      "div",
      { class: "stack" },
      h("h1", { id: "hero-title" }, sentence),
      h(
        "p",
        { class: "hero-text" },
        "Draw a digit, drop a photograph, begin a sentence. The answers come from this service, batched with whatever else ",
        "it is asked at that moment, and the panels of each page show the request behind them as a curl command.",
      ),
      h("div", { class: "row" }, links.map((task, index) => tryLink(task, index))),
    ),
    shown?.element,
  );
  return { element, begin: () => shown?.draw() };
}

function tryLink({ title: words, first }, index) {
  return h("a", { class: index === 0 ? "button primary" : "button", href: addressOf(first) }, words);
}

function section({ task, title: heading }, served, signal) {
  const known = TASKS.map((one) => one.task);
  const fits = (model) => (task === null ? !known.includes(model.task) : model.task === task);
  const rows = served.filter(fits).map((model) => modelRow(model, signal));
  const element = h("section", { class: "models" }, h("h2", {}, heading), h("ul", { class: "stack" }, rows.map((row) => row.element)));
  return { element, rows };
}
