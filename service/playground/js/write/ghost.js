/** A text area that completes as one types: the suggestion stands behind the caret in grey. It knows no model. */

import { announce, h } from "../dom.js";
import { latest } from "../controls.js";

const PAUSE_MS = 120;

/**
 * `suggest(text, signal)` resolves to what may come next; `onText(text)` is told of every change.
 *
 * Tab takes a suggestion and Escape dismisses it; without one, and before any change, Tab moves the focus as everywhere.
 */
export function ghostEditor({ label, describedBy, suggest, onText, signal, rows = 9 }) {
  const before = h("span", {});
  const ghost = h("span", { class: "ghost" });
  const area = h("textarea", {
    class: "editor-area",
    rows,
    spellcheck: false,
    autocapitalize: "off",
    autocomplete: "off",
    "aria-label": label,
    "aria-describedby": describedBy,
    on: { input: changed, keydown: pressed, select: moved, click: clicked, keyup: moved, blur: left },
  });
  // A mirror of the text gives the area its height and carries the suggestion in the right place.
  const mirror = h("div", { class: "editor-mirror", "aria-hidden": "true" }, before, ghost, "\u200b");
  // For fingers; a keyboard has its Tab. Without its default, a press leaves the focus in the text.
  const press = { mousedown: (event) => event.preventDefault(), click: taken };
  const take = h("button", { type: "button", class: "editor-take", tabindex: -1, hidden: true, on: press });
  take.append("Accept ", h("kbd", {}, "Tab"));
  const element = h("div", { class: "editor" }, h("div", { class: "editor-scroll" }, mirror, area), take);

  const newest = latest({ debounce: PAUSE_MS, signal });
  let isOn = true;
  let isBusy = false;
  let isEditing = false; // since it has the focus: whoever only passes by with Tab takes nothing

  function show(suggestion) {
    ghost.textContent = suggestion;
    take.hidden = !suggestion;
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

  function changed(event) {
    isEditing = true;
    mirrorText();
    onText(area.value);
    if (event.isComposing) dismiss();
    else ask();
  }

  function canSuggest() {
    const atEnd = area.selectionStart === area.value.length && area.selectionEnd === area.value.length;
    return isOn && !isBusy && atEnd && area.value.trim() !== "";
  }

  function ask() {
    show("");
    if (!canSuggest()) return dismiss();
    const text = area.value;
    return newest.run(async (signal) => {
      const suggestion = await suggest(text, signal);
      if (signal.aborted || area.value !== text || !canSuggest()) return;
      show(suggestion ?? "");
      if (suggestion && document.activeElement === area) announce(`Suggestion: ${suggestion}`);
    });
  }

  function moved() {
    if (ghost.textContent && !canSuggest()) dismiss();
  }

  function pressed(event) {
    if (!ghost.textContent || event.ctrlKey || event.altKey || event.metaKey) return;
    if (event.key === "Tab" && !event.shiftKey && isEditing) taken(event);
    else if (event.key === "Escape") {
      event.preventDefault();
      dismiss();
    }
  }

  function taken(event) {
    event.preventDefault(); // the focus stays in the text
    const suggestion = ghost.textContent;
    show("");
    area.focus();
    insert(suggestion);
  }

  // `execCommand` is the only way in that keeps the browser's own undo.
  function insert(text) {
    if (!document.execCommand("insertText", false, text)) set(area.value + text);
  }

  function set(text) {
    area.value = text;
    mirrorText();
    onText(text);
  }

  return {
    element,
    area,
    text: () => area.value,
    set(text) {
      dismiss();
      set(text);
    },
    append(text) {
      set(area.value + text);
      const scroll = mirror.parentElement;
      scroll.scrollTop = scroll.scrollHeight;
    },
    busy(value) {
      isBusy = value;
      area.readOnly = value;
      if (value) dismiss();
    },
    suggesting(value) {
      isOn = value;
      if (value) ask();
      else dismiss();
    },
  };
}
