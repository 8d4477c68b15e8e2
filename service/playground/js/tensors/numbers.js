/** Numbers as people paste them: JSON, lines of CSV, or apart by commas and blanks. What was typed stays a text, so that no digit is lost. */

import { UserError } from "../errors.js";
import { boundsOf, isFloat, sizeOf } from "./specs.js";

/** @import { TensorSpec } from "../types.d.ts" */

const WHOLE = /^[+-]?\d+(\.0*)?$/;
const NUMBER = /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i;
const NOT_FINITE = /^([+-]?)(nan|inf(?:inity)?)$/i;
const TRUTHS = new Map([["true", true], ["1", true], ["false", false], ["0", false]]);
const MAX_QUOTED = 40;

/**
 * The words of a pasted text, and the shape that its brackets or lines show; null where they show none.
 *
 * @param {string} text
 * @returns {{words: string[], shape: number[] | null}}
 */
export function wordsOf(text) {
  const words = text.split(/[\s,;[\]]+/).filter(Boolean);
  if (text.includes("[")) return { words, shape: nestedShape(text) };
  const lines = text.split("\n").map((line) => line.split(/[\s,;]+/).filter(Boolean).length).filter(Boolean);
  return { words, shape: lines.length > 1 && new Set(lines).size === 1 ? [lines.length, lines[0]] : null };
}

/** @param {string} text @returns {number[] | null} */
function nestedShape(text) {
  let nested;
  try {
    nested = JSON.parse(text.replace(/[^\s,[\]]+/g, "0"));
  } catch {
    throw new UserError("The brackets do not match.");
  }
  return shapeOfNested(nested);
}

/** @param {unknown} nested @returns {number[] | null} */
function shapeOfNested(nested) {
  if (!Array.isArray(nested)) return [];
  const inner = nested.map(shapeOfNested);
  const isEven = inner.every((one) => one && String(one) === String(inner[0]));
  return isEven ? [nested.length, ...(inner[0] ?? [])] : null;
}

/**
 * The shape that so many elements fill. Sizes may be given for open axes; of those left open, the last one follows from
 * the count, and the others are 1. Throws UserError where they do not fill it.
 *
 * @param {readonly number[]} shape
 * @param {object} given
 * @param {number} given.count
 * @param {readonly (number | null)[]} given.sizes
 * @param {number[] | null} given.seen what brackets or lines show
 * @param {string} [given.things]
 */
export function filledShape(shape, { count, sizes, seen, things = "numbers" }) {
  const wanted = shape.map((size, axis) => (size < 0 ? (sizes[axis] ?? -1) : size));
  if (seen?.length === wanted.length && wanted.every((size, axis) => size < 0 || size === seen[axis])) return seen;
  const open = wanted.lastIndexOf(-1);
  const known = sizeOf(wanted.map((size) => (size < 0 ? 1 : size)));
  if (open < 0 && count !== known) throw new UserError(`${whole(count)} of ${whole(known)} ${things}.`);
  if (open >= 0 && (known === 0 || count === 0 || count % known)) {
    throw new UserError(count === 0 ? `No ${things} yet.` : `${whole(count)} ${things}: not a multiple of ${whole(known)}.`);
  }
  return wanted.map((size, axis) => (axis === open ? count / known : Math.max(size, size < 0 ? 1 : 0)));
}

/** @param {number} count */
const whole = (count) => count.toLocaleString("en");

/**
 * Words as elements of a type: numerals as JSON writes them, NaN and infinities by name, true and false. Throws UserError,
 * quoting the first that the type does not hold.
 *
 * @param {TensorSpec} spec
 * @param {readonly string[]} words
 * @returns {(string | boolean)[]}
 */
export function elementsOf({ datatype }, words) {
  /** @type {(word: string) => string | boolean} */
  const read = datatype === "BOOL" ? truth : isFloat(datatype) ? float : integerOf(datatype);
  return words.map(read);
}

/** @param {string} word */
function truth(word) {
  const value = TRUTHS.get(word.toLowerCase());
  if (value === undefined) throw wrong(word, "true, false, 1 or 0");
  return value;
}

/** @param {string} word */
function float(word) {
  const [, sign, name] = NOT_FINITE.exec(word) ?? [];
  if (name) return name.toLowerCase() === "nan" ? "NaN" : `${sign === "-" ? "-" : ""}Infinity`;
  const value = NUMBER.test(word) ? Number(word) : NaN;
  if (!Number.isFinite(value)) throw wrong(word, "a number");
  return String(value); // as JSON has it: .5 is 0.5
}

/** @param {string} datatype @returns {(word: string) => string} */
function integerOf(datatype) {
  const [least, greatest] = boundsOf(datatype) ?? [0, 0];
  return (word) => {
    if (!WHOLE.test(word)) throw wrong(word, `a whole number, as ${datatype} holds`);
    const value = BigInt(word.replace(/\.0*$/, "").replace("+", ""));
    if (value < least || value > greatest) throw wrong(word, `from ${least} to ${greatest}, as ${datatype} holds`);
    return String(value);
  };
}

/** @param {string} word @param {string} what */
function wrong(word, what) {
  const quoted = word.length > MAX_QUOTED ? `${word.slice(0, MAX_QUOTED)}…` : word;
  return new UserError(`"${quoted}" is not ${what}.`);
}

/**
 * So many elements to try: zeros, or random ones that look like the type.
 *
 * @param {TensorSpec} spec
 * @param {number} count
 * @param {boolean} isRandom
 * @returns {(string | boolean)[]}
 */
export function triedElements({ datatype }, count, isRandom) {
  const draw = () => {
    if (datatype === "BOOL") return isRandom && Math.random() < 0.5;
    if (datatype === "BYTES") return isRandom ? "It is a truth universally acknowledged" : "";
    if (!isRandom) return "0";
    return isFloat(datatype) ? String(Math.round(Math.random() * 100) / 100) : String(Math.floor(Math.random() * 10));
  };
  return Array.from({ length: count }, draw);
}
