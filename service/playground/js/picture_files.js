/** Pictures on their way out of the page: smaller copies, files to save, and what a reply says of its time. */

import { button } from "./controls.js";
import { h } from "./dom.js";

const EXTENSIONS = { "image/jpeg": "jpg", "image/png": "png", "image/webp": "webp" };

/** A canvas as a file. */
export function blobOf(canvas, type = "image/png", quality = undefined) {
  return new Promise((resolve, reject) => {
    const done = (blob) => (blob ? resolve(blob) : reject(new Error("The browser could not write the picture.")));
    canvas.toBlob(done, type, quality);
  });
}

/**
 * The picture as `{blob, name, width, height}`, its longest side at most `maxSide` (0: as it is). What needs no change, or
 * what the browser cannot read, stays as it came; then the service says what is wrong with it.
 */
export async function limited(blob, name, maxSide) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(blob);
  } catch {
    return { blob, name, width: 0, height: 0 };
  }
  const { width, height } = bitmap;
  const scale = maxSide ? Math.min(1, maxSide / Math.max(width, height)) : 1;
  if (scale === 1) {
    bitmap.close();
    return { blob, name, width, height };
  }
  const canvas = h("canvas", {});
  canvas.width = Math.max(1, Math.round(width * scale));
  canvas.height = Math.max(1, Math.round(height * scale));
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  const type = blob.type in EXTENSIONS ? blob.type : "image/png";
  const smaller = await blobOf(canvas, type, 0.92);
  const stem = name.replace(/\.[^.]*$/, "");
  return { blob: smaller, name: `${stem}-${maxSide}.${extensionOf(smaller)}`, width: canvas.width, height: canvas.height };
}

/** The usual ending of a picture's file name, without the dot. */
export function extensionOf(blob) {
  return EXTENSIONS[blob.type] ?? "bin";
}

/** The header that the browser sends with a Blob, for the command to send it too. */
export function typeHeader(blob) {
  return blob.type ? { "Content-Type": blob.type } : {};
}

/** A button that saves a picture, hidden until there is one: `{element, show(blob, name)}`. */
export function saveButton({ verb = "Save", kind = "small" } = {}) {
  let file = null;
  const element = button(verb, () => save(file.blob, file.name), { kind, hidden: true, title: verb === "Save" ? "The file that the command names" : "" });
  return {
    element,
    show(blob, name) {
      file = { blob, name };
      element.textContent = `${verb} ${name}`;
      element.hidden = false;
    },
  };
}

/** Save a file as the browser saves downloads. */
function save(blob, name) {
  const url = URL.createObjectURL(blob);
  h("a", { href: url, download: name }).click();
  // The browser reads the file after this task; a minute is far more than it needs.
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

/** The parts of a `Server-Timing` header: milliseconds by name, and the batch's size as `batch`. */
export function serverTiming(response) {
  const parts = {};
  for (const part of (response.headers.get("Server-Timing") ?? "").split(",")) {
    const [, name, kind, value] = /^\s*([\w-]+);\s*(dur|desc)="?([^"]*)"?/.exec(part) ?? [];
    if (name) parts[name] = kind === "dur" ? Number(value) : value;
  }
  return parts;
}

/** A `Server-Timing` header in words; empty where there is none. */
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

/** Milliseconds with their unit, as exactly as anybody wants to know. */
export function milliseconds(value) {
  if (value >= 1000) return `${(value / 1000).toFixed(1)} s`;
  return `${value < 10 ? value.toFixed(1) : Math.round(value)} ms`;
}
