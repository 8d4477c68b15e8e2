/** The head of a page, and its panels: cards with a heading, the error of their last request and its curl command. */

import { select } from "./controls.js";
import { curlPanel } from "./curl.js";
import { h, uniqueId } from "./dom.js";
import { errorBox } from "./errors.js";
import { addressOf, modelsOf } from "./tasks.js";

/** @import { Child, ModelEntry } from "./types.d.ts" */

const PENDING_MILLISECONDS = 150;

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
 * Elements that show the answer of a panel: dimmed while the next is awaited. The style sheet hides them beside an error.
 *
 * @param {...Element} elements
 */
export function answerIn(...elements) {
  let numCalls = 0;
  let timer = 0;
  for (const element of elements) element.classList.add("answer");

  /** @param {boolean} isPending */
  function dim(isPending) {
    for (const element of elements) element.classList.toggle("is-pending", isPending);
  }

  /** Await an answer; returns whether it is still the latest that was asked for, which ends the waiting. */
  function wait() {
    numCalls += 1;
    const mine = numCalls;
    // Dimming what is replaced at once would only flicker.
    timer ||= setTimeout(dim, PENDING_MILLISECONDS, true);
    return () => {
      if (mine !== numCalls) return false;
      clearTimeout(timer);
      timer = 0;
      dim(false);
      return true;
    };
  }

  return { wait };
}

/**
 * A section with a title and a hint; `guard(work)` shows what the work throws, `show(request)` the curl command. `answer`
 * is what shows the work's result.
 *
 * @param {{title: string, hint?: string, kind?: string, answer?: Element[]}} options
 * @param {...Child} children
 */
export function panel({ title, hint, kind = "", answer = [] }, ...children) {
  const id = uniqueId("panel");
  const errors = errorBox();
  const curl = curlPanel();
  const whole = answerIn(...answer);
  const element = h(
    "section",
    { class: `card panel ${kind}`, "aria-labelledby": id },
    h("header", { class: "panel-head" }, h("h2", { id }, title), hint ? h("p", { class: "panel-hint" }, hint) : null),
    errors.element,
    h("div", { class: "panel-body" }, children),
    curl.element,
  );

  /**
   * @template Result
   * @param {() => Promise<Result>} work
   * @param {ReturnType<typeof answerIn>} [shown] where the result is shown, if not in the panel's answer
   * @returns {Promise<Result | undefined>}
   */
  async function guard(work, shown = whole) {
    const isLatest = shown.wait();
    try {
      const result = await work();
      // One that a newer call has overtaken says nothing of what is asked for now.
      if (isLatest()) errors.hide();
      return result;
    } catch (error) {
      isLatest();
      errors.show(error); // aborted work is no error
      return undefined;
    }
  }

  return { element, errors, guard, show: curl.show };
}
