/** Streams one text from `generate` and measures it. It knows nothing of where the text is shown. */

import { events, modelPath } from "../api.js";
import { isAbort } from "../errors.js";

/** @import { TextEvent, TextOutcome } from "../types.d.ts" */
/** @typedef {Pick<TextOutcome, "numTokens" | "tokensPerSecond" | "firstTokenSeconds">} Measured */

/**
 * Generate a text and give each piece of it to `onPiece`. The reason of the outcome is "stopped" after an abort.
 *
 * @param {string} model
 * @param {{seed?: number | string} & Record<string, unknown>} body
 * @param {{signal: AbortSignal, onPiece: (text: string, measured: Measured) => void}} options
 * @returns {Promise<TextOutcome>}
 */
export async function streamText(model, body, { signal, onPiece }) {
  const clock = new Clock();
  const outcome = { reason: "stopped", seed: body.seed ?? null };
  try {
    for await (const event of events(modelPath(model, "generate"), { ...body, stream: true }, { signal })) {
      if (event.timing) return { ...outcome, ...measuredBy(event) };
      clock.count(event.tokens.length);
      if (event.finish_reason) outcome.reason = event.finish_reason;
      onPiece(event.text, clock.measured());
    }
  } catch (error) {
    if (!isAbort(error)) throw error;
  }
  return { ...outcome, ...clock.measured() };
}

/**
 * What the service measured, from the last event.
 *
 * @param {Required<TextEvent>} event
 */
function measuredBy({ seed, usage, timing }) {
  return {
    seed,
    numTokens: usage.completion_tokens,
    tokensPerSecond: timing.tokens_per_second,
    firstTokenSeconds: timing.time_to_first_token_seconds,
  };
}

/** Counts tokens and seconds on this side of the network. */
class Clock {
  started = performance.now();
  numTokens = 0;
  /** @type {number | null} */
  firstAt = null;

  /** @param {number} numTokens */
  count(numTokens) {
    this.firstAt ??= performance.now();
    this.numTokens += numTokens;
  }

  /** @returns {Measured} */
  measured() {
    const seconds = (performance.now() - this.started) / 1000;
    return {
      numTokens: this.numTokens,
      tokensPerSecond: this.numTokens / Math.max(seconds, 1e-3),
      firstTokenSeconds: this.firstAt === null ? null : (this.firstAt - this.started) / 1000,
    };
  }
}

/**
 * The outcome of `streamText` as one line.
 *
 * @param {TextOutcome} outcome
 */
export function outcomeText({ numTokens, tokensPerSecond, firstTokenSeconds, reason, seed }) {
  const parts = [`${numTokens} tokens`, `${tokensPerSecond.toFixed(0)} tokens/s`];
  if (firstTokenSeconds !== null) parts.push(`first after ${(firstTokenSeconds * 1000).toFixed(0)} ms`);
  if (seed !== null) parts.push(`seed ${seed}`);
  if (reason === "stop") parts.push("the text ended");
  if (reason === "stopped") parts.push("stopped");
  return parts.join(" · ");
}
