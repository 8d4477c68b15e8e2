/** The head of a page, and its panels: cards with a heading, the error of their last request and its curl command. */

import { select } from "./controls.js";
import { curlPanel } from "./curl.js";
import { h, uniqueId } from "./dom.js";
import { errorBox } from "./errors.js";
import { addressOf, modelsOf } from "./tasks.js";

/** @import { Child, ModelEntry } from "./types.d.ts" */

/**
 * The head of a task's page: its title, a text on the model, and a choice of the task's other models. A choice opens the
 * page of that model, or calls `onChoose`.
 *
 * @param {object} options
 * @param {string} options.title
 * @param {Child} options.text
 * @param {string} options.model
 * @param {ModelEntry[]} options.models
 * @param {string} options.task
 * @param {(name: string) => unknown} [options.onChoose]
 */
export function pageHead({ title, text, model, models, task, onChoose }) {
  const names = modelsOf(models, task).map(({ id }) => id);
  const open = (/** @type {string} */ name) => {
    location.hash = addressOf({ id: name, task });
  };
  const choice = select({ label: "Model", options: names, value: model, onInput: onChoose ?? open });
  choice.element.classList.add("model-choice");
  const head = h("div", { class: "page-head" }, h("h1", {}, title), h("p", {}, text));
  return h("header", { class: "row spread" }, head, names.length > 1 ? choice.element : null);
}

/**
 * A section with a title and a hint; `guard(work)` shows what the work throws, `show(request)` the curl command.
 *
 * @param {{title: string, hint?: string, kind?: string}} options
 * @param {...Child} children
 */
export function panel({ title, hint, kind = "" }, ...children) {
  const id = uniqueId("panel");
  const errors = errorBox();
  const curl = curlPanel();
  const element = h(
    "section",
    { class: `card panel ${kind}`, "aria-labelledby": id },
    h("header", { class: "panel-head" }, h("h2", { id }, title), hint ? h("p", { class: "panel-hint" }, hint) : null),
    h("div", { class: "panel-body" }, children),
    errors.element,
    curl.element,
  );

  /**
   * @template Result
   * @param {() => Promise<Result>} work
   * @returns {Promise<Result | undefined>}
   */
  async function guard(work) {
    try {
      const result = await work();
      errors.hide();
      return result;
    } catch (error) {
      errors.show(error); // aborted work is no error
      return undefined;
    }
  }

  return { element, errors, guard, show: curl.show };
}
