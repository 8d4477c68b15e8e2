/** A picture in the place of its numbers: it covers the size that the network takes, and its pixels are scaled. */

import { field, select } from "../controls.js";
import { h } from "../dom.js";
import { UserError } from "../errors.js";
import { imageInput, samplesOf } from "../image_input.js";
import { drawCovering, drawTried, pixelsOf, SCALINGS } from "./pictures.js";

/** @import { PictureLayout, TensorSpec, Way } from "../types.d.ts" */

const OPEN_SIDE = 224;
const MAX_SIDE = 4096;

/**
 * @param {TensorSpec} spec
 * @param {PictureLayout} layout
 * @param {{onChange: () => void, signal: AbortSignal}} options
 * @returns {Way}
 */
export function pictureField(spec, layout, { onChange, signal }) {
  const isGrey = layout.channels === 1;
  const input = imageInput({ samples: samplesOf(isGrey ? "mnist" : "photos"), onImage: take, label: spec.name, signal });
  const scalings = SCALINGS.filter(({ value }) => !isGrey || value !== "imagenet");
  const scaling = spec.datatype === "UINT8" ? null : select({ label: "Scale of the pixels", options: scalings, onInput: onChange });
  const height = layout.height < 0 ? side("Height") : null;
  const width = layout.width < 0 ? side("Width") : null;
  const canvas = h("canvas", { class: isGrey ? "pixels grey" : "pixels", role: "img", "aria-label": `${spec.name} as it is sent`, hidden: true });
  /** @type {ImageBitmap | null} */
  let bitmap = null;
  let file = { blob: new Blob(), name: "" };

  /** @param {string} label */
  function side(label) {
    return field({ label, type: "number", min: "1", max: String(MAX_SIDE), value: String(OPEN_SIDE), onInput: resize });
  }

  /** @param {ReturnType<typeof field> | null} given @param {number} fixed */
  function lengthOf(given, fixed) {
    const length = given ? Number(given.value) : fixed;
    if (!Number.isInteger(length) || length < 1 || length > MAX_SIDE) {
      throw new UserError(`A side is ${given?.value || "empty"}; it must be a whole number up to ${MAX_SIDE}.`);
    }
    return length;
  }

  const size = () => ({ height: lengthOf(height, layout.height), width: lengthOf(width, layout.width) });

  function resize() {
    try {
      if (bitmap) drawCovering(canvas, bitmap, size());
    } catch (error) {
      if (!(error instanceof UserError)) throw error; // `read` says it
    }
    onChange();
  }

  /** @param {Blob} blob @param {string} name */
  async function take(blob, name) {
    const decoded = await createImageBitmap(blob).catch(() => null);
    if (signal.aborted) return decoded?.close();
    bitmap?.close();
    bitmap = decoded;
    file = { blob, name };
    canvas.hidden = !decoded;
    return resize();
  }

  /** What Python needs to make the same numbers of the file. */
  function recipe() {
    const chosen = SCALINGS.find(({ value }) => value === scaling?.value) ?? null;
    return { file, layout, scaling: chosen, height: canvas.height, width: canvas.width };
  }

  return {
    label: "A picture",
    element: h(
      "div",
      { class: "stack" },
      input.element,
      h("div", { class: "row picture-row" }, canvas, h("div", { class: "fields" }, scaling?.element, height?.element, width?.element)),
    ),
    read() {
      size();
      if (canvas.hidden) throw new UserError(file.name ? `"${file.name}" is no image that this browser can read.` : "No picture yet.");
      const { channels, isChannelsFirst } = layout;
      const pixels = [canvas.height, canvas.width];
      const shape = isChannelsFirst ? [channels, ...pixels] : [...pixels, channels];
      const elements = pixelsOf(canvas, layout, recipe().scaling);
      return { shape: spec.shape.length === 4 ? [1, ...shape] : shape, elements, picture: bitmap ? recipe() : null };
    },
    fill(isRandom) {
      bitmap?.close();
      bitmap = null;
      file = { blob: new Blob(), name: "" };
      drawTried(canvas, size(), isRandom);
      canvas.hidden = false;
    },
    summary: ({ shape }) => `${file.name || "Noise or black"}, sent as ${shape.join(" × ")}.`,
    stop: input.stop,
  };
}
