/** The head of a page of one task: its title, what its model is, and the other models of the task to go to. */

import { select } from "./controls.js";
import { h } from "./dom.js";
import { addressOf, modelsOf } from "./tasks.js";

/** `text`, or a node, is said of the model; `onChoose(name)` hears of another, whose address is gone to without it. */
export function pageHead({ title, text, model, models, task, onChoose }) {
  const fitting = modelsOf(models, task);
  const chooser = select({
    label: "Model",
    options: fitting.map(({ id }) => id),
    value: model,
    onInput: onChoose ?? go,
  });
  chooser.element.classList.add("model-choice");

  function go(name) {
    location.hash = addressOf(fitting.find(({ id }) => id === name));
  }

  return h("header", { class: "row spread" }, h("div", { class: "page-head" }, h("h1", {}, title), h("p", {}, text)), fitting.length > 1 ? chooser.element : null);
}
