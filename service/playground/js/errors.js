/** Errors that the user sees, and the box of a panel that shows them. */

import { clear, h } from "./dom.js";

const BUG = "Its details are in the browser's console. Reloading the page helps.";

/** An error that is no fault of the page, for the user alone. Any other is a bug: it is logged, and never shown as it is. */
export class UserError extends Error {}

/** An error as the API words it; `status` is 0 where there was no answer. */
export class ApiError extends UserError {
  /**
   * @param {number} status
   * @param {string} code
   * @param {string} title
   * @param {string} detail
   * @param {string | null} [retryAfter]
   */
  constructor(status, code, title, detail, retryAfter = null) {
    super(detail || title);
    this.name = "ApiError";
    this.status = status;
    this.code = code;
    this.title = title;
    this.detail = detail;
    this.retryAfter = retryAfter;
  }
}

/**
 * Whether work was aborted, which is no failure.
 *
 * @param {unknown} error
 */
export const isAbort = (error) => error instanceof Error && error.name === "AbortError";

/** The place of a panel's errors. Aborted work is not shown. */
export function errorBox() {
  const element = h("div", { class: "error", role: "alert", hidden: true });
  let shown = "";

  /** @param {unknown} error */
  function show(error) {
    if (isAbort(error)) return;
    const isBug = !(error instanceof UserError);
    if (isBug) console.error(error);
    const isAnswer = error instanceof ApiError && error.status !== 0;
    const title = isAnswer ? `${error.status} ${error.title}`.trim() : isBug ? "This page made a mistake" : "Error";
    const message = isBug ? BUG : error.message;
    // A request that is sent every second may fail every second; a screen reader need not say so each time.
    if (shown === `${title} ${message}`) return;
    shown = `${title} ${message}`;
    clear(element).append(h("strong", {}, title), h("p", {}, message));
    if (isAnswer && error.code && error.code !== String(error.status)) element.append(h("code", {}, error.code));
    element.hidden = false;
  }

  function hide() {
    shown = "";
    element.hidden = true;
    clear(element);
  }

  return { element, show, hide };
}

const NOTICE_MILLISECONDS = 6000;

/**
 * Tell something over the page, where nothing else has a place for it.
 *
 * @param {string} text
 */
export function notice(text) {
  const element = h("div", { class: "notice", role: "alert" }, text);
  document.body.append(element);
  setTimeout(() => element.remove(), NOTICE_MILLISECONDS);
}
