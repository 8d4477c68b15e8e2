/** Pictures as files: smaller copies, their addresses for `<img>`, their types, and a button that saves one. */

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
  if (!maxSide || Math.max(width, height) <= maxSide) {
    bitmap.close();
    return { blob, name, width, height };
  }
  const canvas = copied(bitmap, { width, height, maxSide });
  bitmap.close();
  const type = blob.type in EXTENSIONS ? blob.type : "image/png";
  const smaller = await blobOf(canvas, type, 0.92);
  const stem = name.replace(/\.[^.]*$/, "");
  return { blob: smaller, name: `${stem}-${maxSide}.${extensionOf(smaller)}`, width: canvas.width, height: canvas.height };
}

/** A picture, or what a video shows now, on a canvas whose longest side is at most `maxSide`. */
export function copied(source, { width, height, maxSide }, canvas = h("canvas", {})) {
  const scale = Math.min(1, maxSide / Math.max(width, height));
  canvas.width = Math.max(1, Math.round(width * scale));
  canvas.height = Math.max(1, Math.round(height * scale));
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(source, 0, 0, canvas.width, canvas.height);
  return canvas;
}

/** A PNG in base64, as the API gives pictures, as an address for `<img>`. */
export const pngUrl = (base64) => `data:image/png;base64,${base64}`;

/** The address of the latest of some Blobs: `of(blob)` lets go of the one before, `forget()` and the signal of the last. */
export function blobUrl(signal) {
  let url = "";
  signal.addEventListener("abort", forget);

  function forget() {
    URL.revokeObjectURL(url);
    url = "";
  }

  return {
    forget,
    of(blob) {
      forget();
      if (!signal.aborted) url = URL.createObjectURL(blob);
      return url;
    },
  };
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
