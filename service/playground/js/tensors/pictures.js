/** Pictures as numbers, and numbers as pictures. */

import { context2d, h } from "../dom.js";

/** @import { Elements, PictureLayout, Size } from "../types.d.ts" */
/** @typedef {{value: string, label: string, divisor: number, mean: number[], deviation: number[]}} Scaling */

const MEAN = [0.485, 0.456, 0.406];
const DEVIATION = [0.229, 0.224, 0.225];
const NONE = { mean: [0, 0, 0], deviation: [1, 1, 1] };
const MAX_PIXELS = 4_194_304;

/** How the 0 to 255 of a pixel become the numbers of a network: divided, less a mean, by a deviation. @type {Scaling[]} */
export const SCALINGS = [
  { value: "0-1", label: "0 to 1", divisor: 255, ...NONE },
  { value: "imagenet", label: "ImageNet mean and deviation", divisor: 255, mean: MEAN, deviation: DEVIATION },
  { value: "-1-1", label: "−1 to 1", divisor: 255, mean: [0.5, 0.5, 0.5], deviation: [0.5, 0.5, 0.5] },
  { value: "0-255", label: "0 to 255", divisor: 1, ...NONE },
];

/**
 * Draw an image so that it covers the canvas; what is too high or too wide is cut off equally on both sides.
 *
 * @param {HTMLCanvasElement} canvas
 * @param {ImageBitmap} bitmap
 * @param {Size} size
 */
export function drawCovering(canvas, bitmap, { width, height }) {
  Object.assign(canvas, { width, height });
  const scale = Math.max(width / bitmap.width, height / bitmap.height);
  const [wide, high] = [width / scale, height / scale];
  const context = context2d(canvas, { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  context.fillStyle = "#fff"; // what is transparent
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, (bitmap.width - wide) / 2, (bitmap.height - high) / 2, wide, high, 0, 0, width, height);
}

/**
 * Draw black, or noise.
 *
 * @param {HTMLCanvasElement} canvas
 * @param {Size} size
 * @param {boolean} isRandom
 */
export function drawTried(canvas, { width, height }, isRandom) {
  Object.assign(canvas, { width, height });
  const pixels = new ImageData(width, height);
  pixels.data.forEach((_, index, all) => {
    all[index] = index % 4 === 3 ? 255 : isRandom ? Math.random() * 256 : 0;
  });
  context2d(canvas, { willReadFrequently: true }).putImageData(pixels, 0, 0);
}

/**
 * The numbers of a canvas, in the order of the layout; without a scaling they are bytes.
 *
 * @param {HTMLCanvasElement} canvas
 * @param {PictureLayout} layout
 * @param {Scaling | null} scaling
 */
export function pixelsOf(canvas, { channels, isChannelsFirst }, scaling) {
  const { data } = context2d(canvas).getImageData(0, 0, canvas.width, canvas.height);
  const count = data.length / 4;
  const numbers = scaling ? new Float32Array(count * channels) : new Uint8Array(count * channels);
  const { divisor, mean, deviation } = scaling ?? { divisor: 1, ...NONE };
  for (let pixel = 0; pixel < count; pixel += 1) {
    for (let channel = 0; channel < channels; channel += 1) {
      const value = channels === 1 ? grey(data, pixel * 4) : data[pixel * 4 + channel];
      numbers[isChannelsFirst ? channel * count + pixel : pixel * channels + channel] = (value / divisor - mean[channel]) / deviation[channel];
    }
  }
  return numbers;
}

/** As Pillow makes grey of colours. @param {Uint8ClampedArray} data @param {number} at */
const grey = (data, at) => Math.round(0.299 * data[at] + 0.587 * data[at + 1] + 0.114 * data[at + 2]);

/**
 * The first picture of a tensor on a canvas, and what was done to its numbers; null where it is too large.
 *
 * @param {Elements} elements
 * @param {PictureLayout} layout
 * @param {string} datatype
 */
export function pictureOf(elements, { height, width, channels, isChannelsFirst }, datatype) {
  const count = height * width;
  if (count > MAX_PIXELS) return null;
  const values = Float64Array.from({ length: count * channels }, (_, index) => Number(elements[index]));
  const { lowest, highest, words } = rangeOf(values, datatype);
  const pixels = new ImageData(width, height);
  for (let pixel = 0; pixel < count; pixel += 1) {
    for (let channel = 0; channel < 3; channel += 1) {
      const source = Math.min(channel, channels - 1);
      const value = values[isChannelsFirst ? source * count + pixel : pixel * channels + source];
      pixels.data[pixel * 4 + channel] = ((value - lowest) / (highest - lowest)) * 255; // clamped; NaN is black
    }
    pixels.data[pixel * 4 + 3] = 255;
  }
  const canvas = h("canvas", { class: "pixels", role: "img", width, height });
  context2d(canvas).putImageData(pixels, 0, 0);
  return { canvas, words };
}

/**
 * The usual range that the numbers fit, else their own.
 *
 * @param {Float64Array} values
 * @param {string} datatype
 */
function rangeOf(values, datatype) {
  if (datatype === "UINT8") return { lowest: 0, highest: 255, words: "" };
  let [least, greatest] = [Infinity, -Infinity];
  for (const value of values) {
    if (value < least) least = value;
    if (value > greatest && value !== Infinity) greatest = value;
  }
  const usual = [[0, 1], [-1, 1], [0, 255]].find(([low, high]) => least >= low && greatest <= high);
  const [lowest, highest] = usual ?? [least, greatest > least ? greatest : least + 1];
  return { lowest, highest, words: `${usual ? "" : "stretched: "}black is ${short(lowest)}, white is ${short(highest)}` };
}

/** @param {number} value */
const short = (value) => String(Number(value.toPrecision(3)));
