/** What a tensor's type and shape say: its bounds, its size, and whether it looks like a picture. Open axes are -1. */

/** @import { PictureLayout, TensorSpec } from "../types.d.ts" */

export const MAX_FIELDS = 16;
const MIN_PICTURE_SIDE = 8;
const OPEN_SIZE = 8;

/** @type {Partial<Record<string, [number | bigint, number | bigint]>>} */
const BOUNDS = {
  UINT8: [0, 255],
  UINT16: [0, 65535],
  UINT32: [0, 4294967295],
  UINT64: [0n, 18446744073709551615n],
  INT8: [-128, 127],
  INT16: [-32768, 32767],
  INT32: [-2147483648, 2147483647],
  INT64: [-9223372036854775808n, 9223372036854775807n],
};

/**
 * The least and the greatest number of a type of whole numbers; null for any other type.
 *
 * @param {string} datatype
 */
export const boundsOf = (datatype) => BOUNDS[datatype] ?? null;

/**
 * Whether JSON cannot hold a type, so that its elements travel as bytes.
 *
 * @param {string} datatype
 */
export const isRawOnly = (datatype) => datatype === "FP16" || datatype === "BF16";

/** @param {string} datatype */
export const isFloat = (datatype) => datatype.startsWith("FP") || datatype === "BF16";

/** @param {readonly number[]} shape */
export const sizeOf = (shape) => shape.reduce((product, size) => product * size, 1);

/**
 * A type and a shape in words: `FP32 [?, 4]`.
 *
 * @param {string} datatype
 * @param {readonly number[]} shape
 */
export const typeText = (datatype, shape) => `${datatype} [${shape.map((size) => (size < 0 ? "?" : size)).join(", ")}]`;

/**
 * The shape of one row: an open first axis is 1, unless it is the only one.
 *
 * @param {TensorSpec} spec
 */
export function rowShape({ shape }) {
  return shape.length > 1 && shape[0] < 0 ? [1, ...shape.slice(1)] : shape;
}

/**
 * How many fields hold one row: a number, or a vector of few; 0 where fields are not the way.
 *
 * @param {TensorSpec} spec
 */
export function numFields(spec) {
  const shape = rowShape(spec);
  const size = sizeOf(shape);
  const isVector = shape.every((one) => one > 0) && shape.filter((one) => one > 1).length <= 1;
  return isVector && size <= MAX_FIELDS ? size : 0;
}

/**
 * Where a shape that looks like pictures has height, width and channels; null for any other shape or type.
 *
 * @param {TensorSpec} spec
 * @returns {PictureLayout | null}
 */
export function pictureLayout({ datatype, shape }) {
  const isNumber = datatype === "UINT8" || isFloat(datatype);
  const start = shape.length - 3;
  if (!isNumber || start < 0 || start > 1) return null;
  const [first, second, third] = shape.slice(start);
  // Without an axis for the batch, open sizes may be anything.
  const isSide = (/** @type {number} */ size) => size >= MIN_PICTURE_SIDE || (size < 0 && start === 1);
  const isChannels = (/** @type {number} */ size) => size === 1 || size === 3;
  if (isChannels(third) && isSide(first) && isSide(second)) return { height: first, width: second, channels: third, isChannelsFirst: false };
  if (isChannels(first) && isSide(second) && isSide(third)) return { height: second, width: third, channels: first, isChannelsFirst: true };
  return null;
}

/**
 * The layout of an input that takes one picture; null where it takes none, or several at once.
 *
 * @param {TensorSpec} spec
 */
export function pictureInput(spec) {
  return spec.shape.length === 4 && spec.shape[0] > 1 ? null : pictureLayout(spec);
}

/**
 * A shape to try: given sizes, else 1 for the first open axis and a few for the others.
 *
 * @param {readonly number[]} shape
 * @param {readonly (number | null)[]} sizes
 */
export function triedShape(shape, sizes) {
  return shape.map((size, axis) => (size >= 0 ? size : (sizes[axis] ?? (axis === 0 && shape.length > 1 ? 1 : OPEN_SIZE))));
}
