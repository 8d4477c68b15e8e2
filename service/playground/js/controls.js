/** Labelled controls, the box that shows an error, and work of which only the latest counts. */

import { ApiError } from "./api.js";
import { announce, clear, h, uniqueId } from "./dom.js";
import { ToldError } from "./told_error.js";

/** A labelled range: `{element, value, set(value)}`; `format(value)` words the number beside it. */
export function slider({ label, min, max, step = 0.01, value, onInput = () => {}, format = String, hint }) {
  const id = uniqueId("slider");
  const output = h("output", { class: "slider-value", for: id }, format(value));
  const input = h("input", { type: "range", id, min, max, step, on: { input: changed } });
  input.value = value;
  tell();

  function tell() {
    output.textContent = format(input.valueAsNumber);
    input.setAttribute("aria-valuetext", output.textContent);
  }

  function changed() {
    tell();
    onInput(input.valueAsNumber);
  }

  const element = h("div", { class: "control slider" }, h("label", { for: id }, label), output, input, hinted(input, hint));
  return {
    element,
    input,
    get value() {
      return input.valueAsNumber;
    },
    set(next) {
      input.value = next;
      tell();
    },
  };
}

function hinted(input, hint) {
  if (!hint) return null;
  const id = uniqueId("hint");
  input.setAttribute("aria-describedby", id);
  return h("small", { id, class: "hint" }, hint);
}

/** A labelled list to choose from: options are `{value, label}` or plain texts; `{element, value, set(value)}`. */
export function select({ label, options, value, onInput = () => {}, hint }) {
  const id = uniqueId("select");
  const choices = options.map((option) => (typeof option === "object" ? option : { value: option, label: option }));
  const input = h(
    "select",
    { id, on: { change: () => onInput(input.value) } },
    choices.map((option) => h("option", { value: option.value }, option.label)),
  );
  if (value !== undefined) input.value = value;
  return valued(h("div", { class: "control" }, h("label", { for: id }, label), input, hinted(input, hint)), input);
}

/** A labelled text or number: `{element, value, set(value)}`; props are those of `<input>`, `multiline` a text area. */
export function field({ label, value = "", onInput = () => {}, hint, multiline = false, ...props }) {
  const id = uniqueId("field");
  const kind = multiline ? "textarea" : "input";
  const input = h(kind, { id, ...(multiline ? {} : { type: "text" }), ...props, on: { input: () => onInput(input.value) } });
  input.value = value;
  return valued(h("div", { class: "control" }, h("label", { for: id }, label), input, hinted(input, hint)), input);
}

function valued(element, input) {
  return {
    element,
    input,
    get value() {
      return input.value;
    },
    set(next) {
      input.value = next;
    },
  };
}

/** A labelled switch: `{element, value, set(boolean)}`. */
export function toggle({ label, value = false, onInput = () => {}, hint }) {
  const id = uniqueId("toggle");
  const input = h("input", { type: "checkbox", role: "switch", id, on: { change: () => onInput(input.checked) } });
  input.checked = value;
  return {
    element: h("div", { class: "control toggle" }, input, h("label", { for: id }, label), hinted(input, hint)),
    input,
    get value() {
      return input.checked;
    },
    set(next) {
      input.checked = next;
    },
  };
}

/** A button; `kind` is "primary", "small" or nothing, several joined by blanks. Returns the element itself. */
export function button(label, onClick, { kind = "", ...props } = {}) {
  return h("button", { type: "button", class: `button ${kind}`.trim(), ...props, on: { click: onClick } }, label);
}

/** The place of a panel's errors: `{element, show(error), hide()}`. Aborted work is not shown. */
export function errorBox() {
  const element = h("div", { class: "error", role: "alert", hidden: true });
  let told = "";
  return {
    element,
    show(error) {
      if (error?.name === "AbortError") return;
      if (!(error instanceof ToldError)) console.error(error);
      const head = error instanceof ApiError && error.status ? `${error.status} ${error.title ?? ""}`.trim() : "Error";
      // What is asked every second may fail every second; a screen reader need not say so each time.
      if (told === `${head} ${error.message}`) return;
      told = `${head} ${error.message}`;
      clear(element).append(h("strong", {}, head), h("p", {}, error.message));
      if (error.code && error.status) element.append(h("code", {}, error.code));
      element.hidden = false;
    },
    hide() {
      told = "";
      element.hidden = true;
      clear(element);
    },
  };
}

/**
 * Work of which only the latest counts: `run(async (signal) => ...)` aborts what ran before, waits `debounce` ms, works
 * and returns its result; undefined where a newer call or `cancel` took its place. `signal` ends it for good.
 */
export function latest({ debounce = 0, signal: outer } = {}) {
  let controller = null;
  outer?.addEventListener("abort", () => controller?.abort());

  async function run(work) {
    controller?.abort();
    if (outer?.aborted) return undefined;
    const mine = new AbortController();
    controller = mine;
    if (debounce) await pause(debounce, mine.signal);
    if (mine.signal.aborted) return undefined;
    try {
      const result = await work(mine.signal);
      return mine.signal.aborted ? undefined : result;
    } catch (error) {
      if (mine.signal.aborted) return undefined;
      throw error;
    }
  }

  return { run, cancel: () => controller?.abort() };
}

/** Wait some milliseconds, or until the signal aborts. */
export function pause(milliseconds, signal) {
  return new Promise((resolve) => {
    if (signal?.aborted) return resolve();
    const timer = setTimeout(done, milliseconds);
    function done() {
      clearTimeout(timer);
      signal?.removeEventListener("abort", done);
      resolve();
    }
    signal?.addEventListener("abort", done);
  });
}

/** Tell of progress in a line that screen readers hear: `{element, say(text)}`. */
export function statusLine() {
  const element = h("p", { class: "status muted" });
  return {
    element,
    say(text, { aloud = false } = {}) {
      element.textContent = text;
      if (aloud) announce(text);
    },
  };
}
