/** What a reply says of its time, from its `Server-Timing` header. */

import { seconds } from "./charts.js";

const PART = /^\s*([\w-]+);\s*(dur|desc)="?([^"]*)"?/;

/** The parts of the header: milliseconds by name, and the batch's size as `batch`. */
export function serverTiming(response) {
  const parts = {};
  for (const part of (response.headers.get("Server-Timing") ?? "").split(",")) {
    const [, name, kind, value] = PART.exec(part) ?? [];
    if (name) parts[name] = kind === "dur" ? Number(value) : value;
  }
  return parts;
}

/** The header in words; empty where there is none. */
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

/** Milliseconds with the unit that reads best. */
export const milliseconds = (value) => seconds(value / 1000);
