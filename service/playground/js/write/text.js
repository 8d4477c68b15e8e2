/** How texts are cut: characters as the API counts them, and as much of a text as a model has room for. */

import { json, modelPath } from "../api.js";

/** @import { Token, TokenizedText } from "../types.d.ts" */

// A cut may change how the first word is split, so that the rest has a few tokens more.
const SPARE_TOKENS = 8;

/**
 * The tokens of a text.
 *
 * @param {string} model
 * @param {string} text
 * @param {AbortSignal} signal
 * @returns {Promise<TokenizedText>}
 */
function tokenize(model, text, signal) {
  return json(modelPath(model, "tokenize"), { text }, { signal });
}

/**
 * The end of a text that has at most `maxTokens` tokens; asks the tokenizer only where that is in doubt.
 *
 * @param {string} model
 * @param {string} text
 * @param {number} maxTokens
 * @param {AbortSignal} signal
 */
export async function fitting(model, text, maxTokens, signal) {
  if (new TextEncoder().encode(text).length <= maxTokens) return text; // no token is shorter than a byte
  const { tokens } = await tokenize(model, text, signal);
  return cutBefore(text, tokens, tokens.length, maxTokens);
}

/**
 * The last `maxTokens` tokens of a text.
 *
 * @param {string} model
 * @param {string} text
 * @param {number} maxTokens
 * @param {AbortSignal} signal
 */
export async function lastTokens(model, text, maxTokens, signal) {
  if (text === "") return text;
  const { tokens } = await tokenize(model, text, signal);
  return tokens.length > maxTokens ? cutBefore(text, tokens, tokens.length, maxTokens, 0) : text;
}

/**
 * What precedes token `index`, without the tokens at its start that are too many.
 *
 * @param {string} text
 * @param {Token[]} tokens
 * @param {number} index
 * @param {number} maxTokens
 */
export function cutBefore(text, tokens, index, maxTokens, spare = SPARE_TOKENS) {
  const characters = Array.from(text); // code points, in which the API counts; JavaScript counts UTF-16 units
  const end = index < tokens.length ? tokens[index].start : characters.length;
  const first = index > maxTokens ? (tokens[index - maxTokens + spare]?.start ?? end) : 0;
  return characters.slice(first, end).join("");
}

/**
 * The bits of a natural logarithm of a probability.
 *
 * @param {number} logprob
 */
export const bits = (logprob) => -logprob / Math.LN2;
