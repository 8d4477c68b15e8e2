/** A panel: a card with a heading, the error of its last request in the words of the API, and its curl. */

import { curlPanel } from "./curl.js";
import { errorBox } from "./controls.js";
import { h, uniqueId } from "./dom.js";

/** A section with a title and a hint; `guard(work)` runs async work and shows what it throws. */
export function panel({ title, hint, kind = "" }, ...children) {
  const id = uniqueId("panel");
  const errors = errorBox();
  const curl = curlPanel();
  const body = h("div", { class: "panel-body" }, ...children);
  const element = h(
    "section",
    { class: `card panel ${kind}`, "aria-labelledby": id },
    h("header", { class: "panel-head" }, h("h2", { id }, title), hint ? h("p", { class: "panel-hint" }, hint) : null),
    body,
    errors.element,
    curl.element,
  );

  async function guard(work) {
    try {
      const result = await work();
      errors.hide();
      return result;
    } catch (error) {
      errors.show(error); // which does not show that work was aborted
      return undefined;
    }
  }

  return { element, body, guard, show: (request) => curl.show(request) };
}
