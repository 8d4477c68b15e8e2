/** Numbers, times, shares and characters as short texts, and the `Server-Timing` header in words. */

const PART = /^\s*([\w-]+);\s*(dur|desc)="?([^"]*)"?/;

/**
 * A short number: three significant digits, thousands as k.
 *
 * @param {number | null | undefined} value
 */
export function short(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  const size = Math.abs(value);
  if (size >= 1e6) return `${(value / 1e6).toFixed(size >= 1e7 ? 0 : 1)}M`;
  if (size >= 1e4) return `${(value / 1e3).toFixed(size >= 1e5 ? 0 : 1)}k`;
  if (size >= 100 || Number.isInteger(value)) return value.toFixed(0);
  return size >= 10 ? value.toFixed(1).replace(".0", "") : String(Number(value.toPrecision(2)));
}

/**
 * How many, as a person says it: 2.5 M, 907 k.
 *
 * @param {number} value
 */
export function rough(value) {
  if (value >= 1e6) return `${(value / 1e6).toFixed(value >= 1e8 ? 0 : 1)} M`;
  return value >= 1e4 ? `${Math.round(value / 1e3)} k` : String(value);
}

/**
 * A time in seconds, in the unit that reads best.
 *
 * @param {number | null | undefined} value
 */
export function seconds(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (value === 0) return "0";
  if (value < 1e-3) return `${Math.round(value * 1e6)} µs`;
  return value < 1 ? `${short(value * 1e3)} ms` : `${short(value)} s`;
}

/**
 * A time in milliseconds, in the unit that reads best.
 *
 * @param {number} value
 */
export const milliseconds = (value) => seconds(value / 1000);

/**
 * A token or a character as a label shows it, with its white space made visible.
 *
 * @param {string} text
 */
export function visible(text) {
  if (text === "") return "∅";
  return text.replace(/ /g, "·").replace(/\n/g, "↵").replace(/\t/g, "⇥").replace(/\r/g, "␍");
}

/**
 * A share as a percentage with two digits or three.
 *
 * @param {number} share
 */
export function percent(share) {
  const value = share * 100;
  return `${value >= 9.95 ? value.toFixed(0) : value >= 0.1 ? value.toFixed(1) : value.toPrecision(1)} %`;
}

/**
 * The parts of a reply's `Server-Timing` header: milliseconds, and the size of its batch.
 *
 * @param {Response} response
 */
export function serverTiming(response) {
  /** @type {Partial<Record<string, number>>} */
  const parts = {};
  for (const part of (response.headers.get("Server-Timing") ?? "").split(",")) {
    const [, name, , value] = PART.exec(part) ?? [];
    if (name) parts[name] = Number(value);
  }
  return parts;
}

/**
 * The `Server-Timing` header in words; empty where there is none.
 *
 * @param {Response} response
 */
export function timingText(response) {
  const { queue, compute, batch, total } = serverTiming(response);
  if (total === undefined) return "";
  const details = [
    queue === undefined ? "" : `${milliseconds(queue)} queued`,
    compute === undefined ? "" : `${milliseconds(compute)} computing`,
    batch === undefined ? "" : `batch of ${batch}`,
  ].filter(Boolean);
  return `${milliseconds(total)} in the service${details.length ? `: ${details.join(", ")}` : ""}`;
}
