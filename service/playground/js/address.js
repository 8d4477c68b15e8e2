/** The settings of a page in its address, so that a link restores them: `#/write/novelist?temperature=0.5&seed=3`. */

const PAUSE_MILLISECONDS = 250;
const MAX_CHARACTERS = 1500; // longer addresses are cut by what they are pasted into

/** What the address says beside the page and the model. */
export function settingsInAddress() {
  return new URLSearchParams(location.hash.split("?")[1] ?? "");
}

/** @typedef {Record<string, string | number | boolean | null | undefined>} Settings */

/** @type {Settings} */
let waiting = {};
let timer = 0;

/**
 * Put settings into the address soon, without a step in the history; those that are null, false or empty leave it. Browsers
 * allow only so many changes of the address.
 *
 * @param {Settings} settings
 */
export function keepInAddress(settings) {
  const [path] = location.hash.split("?");
  Object.assign(waiting, settings);
  clearTimeout(timer);
  timer = setTimeout(() => {
    const kept = settingsInAddress();
    for (const [name, value] of Object.entries(waiting)) keep(kept, name, value);
    waiting = {};
    if (location.hash.split("?")[0] !== path) return; // the user has gone to another page
    const query = kept.toString();
    history.replaceState(null, "", `${path || "#/"}${query ? `?${query}` : ""}`);
  }, PAUSE_MILLISECONDS);
}

/** @param {URLSearchParams} kept @param {string} name @param {Settings[string]} value */
function keep(kept, name, value) {
  const text = value === null || value === undefined || value === false ? "" : String(value);
  if (text === "" || text.length > MAX_CHARACTERS) kept.delete(name);
  else kept.set(name, text);
}

/**
 * Restore controls from the address, and keep what the user makes of them there, unless it is what they begin with.
 *
 * @param {Record<string, {input: HTMLInputElement | HTMLSelectElement, readonly value: any, set: (value: any) => void}>} controls
 * @returns {() => void} what to call after a change that no input event tells of
 */
export function linked(controls) {
  const first = Object.fromEntries(Object.entries(controls).map(([name, { value }]) => [name, value]));
  const changed = () => {
    const values = Object.entries(controls).map(([name, { value }]) => [name, value === first[name] ? null : value]);
    keepInAddress(Object.fromEntries(values));
  };
  for (const [name, control] of Object.entries(controls)) {
    restore(control, name);
    for (const kind of ["input", "change"]) control.input.addEventListener(kind, changed);
  }
  return changed;
}

/**
 * Set a control to what the address says of it; anything else leaves it as it is.
 *
 * @param {{input: HTMLInputElement | HTMLSelectElement, set: (value: any) => void}} control
 * @param {string} name
 */
function restore({ input, set }, name) {
  const value = settingsInAddress().get(name);
  if (value === null || value === "") return;
  if (input instanceof HTMLSelectElement) {
    if ([...input.options].some((option) => option.value === value)) set(value);
  } else if (input.type === "range") {
    if (value.trim() !== "" && Number.isFinite(Number(value))) set(Number(value)); // which the range keeps within its bounds
  } else if (input.type === "checkbox") set(value === "true");
  else set(value);
}
