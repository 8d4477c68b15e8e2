/** A text area that completes as the user types: the suggestion stands behind the caret in grey. It knows no model. */

import { announce, h } from "../dom.js";
import { latest } from "../scheduling.js";

const PAUSE_MILLISECONDS = 120;
const NUM_ROWS = 9;
const NEAR_END_PIXELS = 40;

/**
 * Tab accepts a suggestion and Escape dismisses it; without one, and before any change, Tab moves the focus as everywhere.
 *
 * @param {object} options
 * @param {string} options.label
 * @param {string} options.describedBy the id of the element that explains the keys
 * @param {(text: string, signal: AbortSignal) => Promise<string | undefined>} options.suggest what may come next
 * @param {(text: string) => void} options.onText gets the text after every change
 * @param {AbortSignal} options.signal
 */
export function ghostEditor({ label, describedBy, suggest, onText, signal }) {
  const before = h("span");
  const ghost = h("span", { class: "ghost" });
  const area = h("textarea", {
    class: "editor-area",
    rows: NUM_ROWS,
    spellcheck: false,
    autocapitalize: "off",
    autocomplete: "off",
    "aria-label": label,
    "aria-describedby": describedBy,
    on: { input: (event) => changed(/** @type {InputEvent} */ (event)), keydown: pressed, select: moved, click: clicked, keyup: moved, blur: left },
  });
  // A mirror of the text gives the area its height and carries the suggestion in the right place.
  const mirror = h("div", { class: "editor-mirror", "aria-hidden": "true" }, before, ghost, "\u200b");
  const scroll = h("div", { class: "editor-scroll" }, h("div", { class: "editor-sheet" }, mirror, area));
  // For touch; a keyboard has its Tab. Without its default, a press leaves the focus in the text.
  const on = { mousedown: (/** @type {Event} */ event) => event.preventDefault(), click: accept };
  const button = h("button", { type: "button", class: "editor-accept", tabindex: -1, hidden: true, on }, "Accept ", h("kbd", {}, "Tab"));
  const element = h("div", { class: "editor" }, scroll, button);

  const newest = latest({ debounce: PAUSE_MILLISECONDS, signal });
  let isOn = true;
  let isBusy = false;
  let isEditing = false; // since it has the focus: a user who only passes by with Tab accepts nothing

  /** @param {string} suggestion */
  function show(suggestion) {
    ghost.textContent = suggestion;
    button.hidden = !suggestion;
  }

  function dismiss() {
    newest.cancel();
    show("");
  }

  function mirrorText() {
    before.textContent = area.value;
  }

  function left() {
    isEditing = false;
    dismiss();
  }

  function clicked() {
    isEditing = true;
    moved();
  }

  /** @param {InputEvent} event */
  function changed(event) {
    isEditing = true;
    mirrorText();
    onText(area.value);
    if (event.isComposing) dismiss();
    else ask();
  }

  function canSuggest() {
    const isBehind = area.selectionStart === area.value.length && area.selectionEnd === area.value.length;
    return isOn && !isBusy && isBehind && area.value.trim() !== "";
  }

  function ask() {
    show("");
    if (!canSuggest()) return dismiss();
    const text = area.value;
    return newest.run(async (newer) => {
      const suggestion = await suggest(text, newer);
      if (newer.aborted || area.value !== text || !canSuggest()) return;
      show(suggestion ?? "");
      if (suggestion && document.activeElement === area) announce(`Suggestion: ${suggestion}`);
    });
  }

  function moved() {
    if (ghost.textContent && !canSuggest()) dismiss();
  }

  /** @param {KeyboardEvent} event */
  function pressed(event) {
    if (!ghost.textContent || event.ctrlKey || event.altKey || event.metaKey) return;
    if (event.key === "Tab" && !event.shiftKey && isEditing) accept(event);
    else if (event.key === "Escape") {
      event.preventDefault();
      dismiss();
    }
  }

  /** @param {Event} event */
  function accept(event) {
    event.preventDefault(); // the focus stays in the text
    const suggestion = ghost.textContent;
    show("");
    area.focus();
    // The deprecated `execCommand` is the only way that keeps the browser's own undo.
    if (!document.execCommand("insertText", false, suggestion)) change(area.value + suggestion);
  }

  /** @param {string} text */
  function change(text) {
    area.value = text;
    mirrorText();
    onText(text);
  }

  return {
    element,
    text: () => area.value,
    /** @param {string} text */
    set(text) {
      dismiss();
      change(text);
    },
    /** @param {string} text */
    append(text) {
      const follows = isAtEnd(scroll); // a reader who has scrolled back is left there
      change(area.value + text);
      if (follows) scroll.scrollTop = scroll.scrollHeight;
    },
    showEnd() {
      scroll.scrollTop = scroll.scrollHeight;
    },
    /** @param {boolean} value */
    setBusy(value) {
      isBusy = value;
      area.readOnly = value;
      if (value) dismiss();
    },
    /** @param {boolean} value */
    setSuggesting(value) {
      isOn = value;
      if (value) ask();
      else dismiss();
    },
  };
}

/**
 * Whether a box that scrolls shows its end: what is appended there should be seen.
 *
 * @param {Element} box
 */
export const isAtEnd = (box) => box.scrollHeight - box.clientHeight - box.scrollTop < NEAR_END_PIXELS;
