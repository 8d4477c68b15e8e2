/** The bar that Ctrl-K opens: finds models, pages and actions by a few letters. */

import { announce, clear, closest, h, uniqueId } from "./dom.js";

/** @typedef {{text: string, kind: string, run: () => void}} Entry */

const MAX_SHOWN = 9;

/**
 * Whether the letters of a query come in a text, in their order; how far they lie apart, or null.
 *
 * @param {string} text
 * @param {string} query
 */
function distance(text, query) {
  const [where, letters] = [text.toLowerCase(), query.toLowerCase().replace(/\s+/g, "")];
  const whole = where.indexOf(query.toLowerCase().trim());
  if (whole >= 0) return whole / 100;
  let at = -1;
  let gaps = 1;
  for (const letter of letters) {
    const next = where.indexOf(letter, at + 1);
    if (next < 0) return null;
    gaps += at < 0 ? 0 : next - at - 1;
    at = next;
  }
  return gaps;
}

/**
 * Open the bar over the page.
 *
 * @param {Entry[]} entries
 */
export function openPalette(entries) {
  const id = uniqueId("found");
  const list = h("ul", { class: "palette-list", role: "listbox", id, "aria-label": "Found", on: { click: clicked, pointermove: pointed } });
  const input = h("input", {
    type: "text",
    role: "combobox",
    placeholder: "A model, a page or an action",
    autocomplete: "off",
    spellcheck: false,
    "aria-label": "Find a model, a page or an action",
    "aria-controls": id,
    "aria-expanded": "true",
    on: { input: find, keydown: pressed },
  });
  const dialog = h("dialog", { class: "palette", "aria-label": "Find" }, h("div", { class: "palette-box" }, input, list));
  dialog.addEventListener("close", () => dialog.remove());
  dialog.addEventListener("click", outside);
  /** @type {Entry[]} */
  let found = [];
  let selected = 0;
  document.body.append(dialog);
  dialog.showModal();
  find();

  function find() {
    const query = input.value.trim();
    const ranked = entries.map((entry) => ({ entry, far: query ? distance(`${entry.text} ${entry.kind}`, query) : 0 }));
    found = ranked
      .flatMap(({ entry, far }) => (far === null ? [] : [{ entry, far }]))
      .sort((a, b) => a.far - b.far)
      .slice(0, MAX_SHOWN)
      .map(({ entry }) => entry);
    clear(list).append(...found.map(option));
    if (found.length === 0) list.append(h("li", { class: "muted palette-none" }, "Nothing is called so."));
    select(0);
    if (query) announce(`${found.length} found`);
  }

  /** @param {Entry} entry @param {number} index */
  function option({ text, kind }, index) {
    return h("li", { class: "palette-option", role: "option", id: `${id}-${index}`, dataset: { index } }, h("span", {}, text), h("span", { class: "muted" }, kind));
  }

  /** @param {number} index */
  function select(index) {
    selected = Math.max(0, Math.min(found.length - 1, index));
    [...list.children].forEach((one, at) => one.setAttribute("aria-selected", String(at === selected)));
    input.setAttribute("aria-activedescendant", found.length ? `${id}-${selected}` : "");
  }

  /** @param {KeyboardEvent} event */
  function pressed(event) {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step) {
      event.preventDefault();
      select(selected + step);
    }
    if (event.key === "Enter") run();
  }

  /** @param {Event} event */
  function pointed(event) {
    const index = closest(event, "[data-index]")?.dataset.index;
    if (index !== undefined && Number(index) !== selected) select(Number(index));
  }

  /** @param {Event} event */
  function clicked(event) {
    pointed(event);
    if (closest(event, "[data-index]")) run();
  }

  /** @param {MouseEvent} event */
  function outside(event) {
    if (event.target === dialog) dialog.close();
  }

  function run() {
    const entry = found[selected];
    if (!entry) return;
    dialog.close();
    entry.run();
  }
}
