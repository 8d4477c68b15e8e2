/** The head of a page of one task: its title, what its model is, and the other models of the task to go to. */

import { select } from "./controls.js";
import { h } from "./dom.js";
import { addressOf, modelsOf } from "./tasks.js";

/** `text` is said of the model; another choice goes to that model's address. */
export function pageHead({ title, text, model, models, task }) {
  const fitting = modelsOf(models, task);
  const chooser = select({
    label: "Model",
    options: fitting.map(({ id }) => id),
    value: model,
    onInput: (name) => {
      location.hash = addressOf(fitting.find(({ id }) => id === name));
    },
  });
  chooser.element.style.width = "min(100%, 240px)";
  return h("header", { class: "row spread" }, h("div", { class: "page-head" }, h("h1", {}, title), h("p", {}, text)), fitting.length > 1 ? chooser.element : null);
}
