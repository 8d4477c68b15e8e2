/** How texts are shown and cut: characters as the API counts them, and as much of a text as a model has room for. */

import { json, modelPath } from "../api.js";

// A cut may change how the first word is split, so that the rest has a few tokens more.
const SPARE_TOKENS = 8;

/** A text by code points, in which the API counts; JavaScript counts UTF-16 units. */
const characters = (text) => Array.from(text);

const numBytes = (text) => new TextEncoder().encode(text).length;

/** The end of a text that has at most `mostTokens` tokens; asks the tokenizer only where that is in doubt. */
export async function fitting(model, text, mostTokens, signal) {
  if (numBytes(text) <= mostTokens) return text;
  const { tokens } = await json(modelPath(model, "tokenize"), { text }, { signal });
  return cutBefore(text, tokens, tokens.length, mostTokens);
}

/** What precedes token `index`, without the tokens at its start that are too many. */
export function cutBefore(text, tokens, index, mostTokens, spare = SPARE_TOKENS) {
  const all = characters(text);
  const end = index < tokens.length ? tokens[index].start : all.length;
  const first = index > mostTokens ? (tokens[index - mostTokens + spare]?.start ?? end) : 0;
  return all.slice(first, end).join("");
}

/** A token as a label shows it: what would not be seen is made visible. */
export function visible(text) {
  if (text === "") return "∅";
  return text.replace(/ /g, "·").replace(/\n/g, "↵").replace(/\t/g, "⇥").replace(/\r/g, "␍");
}

/** A share as a percentage with as many digits as it deserves. */
export function percent(share) {
  const value = share * 100;
  return `${value >= 9.95 ? value.toFixed(0) : value >= 0.1 ? value.toFixed(1) : value.toPrecision(1)} %`;
}

/** A natural logarithm of a probability, as bits of surprise. */
export const bits = (logprob) => -logprob / Math.LN2;
