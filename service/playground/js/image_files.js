/** Images as files: smaller copies, their addresses for `<img>`, their types, and a button that saves one. */

import { button } from "./controls.js";
import { context2d, h } from "./dom.js";

/** @import { NamedBlob, Size } from "./types.d.ts" */

/** @type {Partial<Record<string, string>>} */
const EXTENSIONS = { "image/jpeg": "jpg", "image/png": "png", "image/webp": "webp" };
const JPEG_QUALITY = 0.92;
const MAX_AT_ONCE_PIXELS = 640 * 640;

/**
 * A canvas as a file. Chromium's `toBlob` waits up to a second for an idle moment, so what is small is encoded at once.
 *
 * @param {HTMLCanvasElement} canvas
 * @param {string} [type]
 * @param {number} [quality]
 * @returns {Promise<Blob>}
 */
export function blobOf(canvas, type, quality) {
  if (canvas.width * canvas.height <= MAX_AT_ONCE_PIXELS) return Promise.resolve(blobOfUrl(canvas.toDataURL(type, quality)));
  return new Promise((resolve, reject) => {
    const done = (/** @type {Blob | null} */ blob) => (blob ? resolve(blob) : reject(new Error("The browser could not encode the image.")));
    canvas.toBlob(done, type, quality);
  });
}

/**
 * The content of a `data:` address in base64.
 *
 * @param {string} url
 */
export function blobOfUrl(url) {
  const [head, content] = url.split(",");
  const bytes = Uint8Array.from(atob(content), (character) => character.charCodeAt(0));
  return new Blob([bytes], { type: /^data:([^;]*)/.exec(head)?.[1] ?? "" });
}

/**
 * An image whose longest side is at most `maxSide` (0: no limit). An image that fits, or that the browser cannot decode,
 * stays as it is; the service says what is wrong with the latter.
 *
 * @param {NamedBlob} image
 * @param {number} maxSide
 * @returns {Promise<NamedBlob>}
 */
export async function shrunk({ blob, name }, maxSide) {
  const bitmap = await createImageBitmap(blob).catch(() => null);
  if (!bitmap || !maxSide || Math.max(bitmap.width, bitmap.height) <= maxSide) {
    bitmap?.close();
    return { blob, name };
  }
  const canvas = scaledCanvas(bitmap, { width: bitmap.width, height: bitmap.height, maxSide });
  bitmap.close();
  const smaller = await blobOf(canvas, blob.type in EXTENSIONS ? blob.type : "image/png", JPEG_QUALITY);
  const stem = name.replace(/\.[^.]*$/, "");
  return { blob: smaller, name: `${stem}-${maxSide}.${extensionOf(smaller)}` };
}

/**
 * An image, or the current frame of a video, on a canvas whose longest side is at most `maxSide`.
 *
 * @param {CanvasImageSource} source
 * @param {Size & {maxSide: number}} size
 * @param {HTMLCanvasElement} [canvas]
 */
export function scaledCanvas(source, { width, height, maxSide }, canvas = h("canvas")) {
  const scale = Math.min(1, maxSide / Math.max(width, height));
  canvas.width = Math.max(1, Math.round(width * scale));
  canvas.height = Math.max(1, Math.round(height * scale));
  const context = context2d(canvas);
  context.imageSmoothingQuality = "high";
  context.drawImage(source, 0, 0, canvas.width, canvas.height);
  return canvas;
}

/**
 * The address for `<img>` of a PNG in base64, as the API returns images.
 *
 * @param {string} base64
 */
export const pngUrl = (base64) => `data:image/png;base64,${base64}`;

/**
 * The address of one Blob at a time: `of(blob)` revokes the one before, `revoke()` and the signal the last.
 *
 * @param {AbortSignal} signal
 */
export function blobUrl(signal) {
  let url = "";
  signal.addEventListener("abort", revoke);

  function revoke() {
    URL.revokeObjectURL(url);
    url = "";
  }

  /** @param {Blob} blob */
  function of(blob) {
    revoke();
    if (!signal.aborted) url = URL.createObjectURL(blob);
    return url;
  }

  return { of, revoke };
}

/**
 * The usual extension of an image's file name, without the dot.
 *
 * @param {Blob} blob
 */
export function extensionOf(blob) {
  return EXTENSIONS[blob.type] ?? "bin";
}

/**
 * The header that the browser sends with a Blob, for the curl command to send too.
 *
 * @param {Blob} blob
 * @returns {Record<string, string>}
 */
export function typeHeader(blob) {
  return blob.type ? { "Content-Type": blob.type } : {};
}

/** A button that saves an image, hidden until `show` gives it one. */
export function saveButton({ verb = "Save", kind = "small" } = {}) {
  /** @type {NamedBlob | null} */
  let file = null;
  const title = verb === "Save" ? "The file that the command names" : "";
  const element = button(verb, () => file && save(file), { kind, hidden: true, title });

  /** @param {Blob} blob @param {string} name */
  function show(blob, name) {
    file = { blob, name };
    element.textContent = `${verb} ${name}`;
    element.hidden = false;
  }

  return { element, show };
}

/**
 * Save a file as the browser saves downloads.
 *
 * @param {NamedBlob} file
 */
export function save({ blob, name }) {
  const url = URL.createObjectURL(blob);
  h("a", { href: url, download: name }).click();
  // The browser reads the file after this task; a minute is far more than it needs.
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}
