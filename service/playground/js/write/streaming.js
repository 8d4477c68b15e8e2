/** Streams one text from `generate` and keeps count of it. It knows nothing of where the text is shown. */

import { events, modelPath } from "../api.js";

/**
 * Generate and give each piece of text to `onPiece(text, {numTokens, tokensPerSecond})`.
 *
 * Resolves to {numTokens, tokensPerSecond, firstTokenSeconds, reason, seed}; the reason is "stopped" after an abort.
 */
export async function streamText(model, body, { signal, onPiece }) {
  const clock = new Clock();
  const outcome = { reason: "stopped", seed: body.seed ?? null };
  try {
    for await (const event of events(modelPath(model, "generate"), { ...body, stream: true }, { signal })) {
      if (event.timing) return { ...outcome, ...clock.measured(), ...told(event) };
      clock.count(event.tokens.length);
      if (event.finish_reason) outcome.reason = event.finish_reason;
      onPiece(event.text, clock.measured());
    }
  } catch (error) {
    if (error.name !== "AbortError") throw error;
  }
  return { ...outcome, ...clock.measured() };
}

function told({ seed, usage, timing }) {
  return {
    seed,
    numTokens: usage.completion_tokens,
    tokensPerSecond: timing.tokens_per_second,
    firstTokenSeconds: timing.time_to_first_token_seconds,
  };
}

/** Counts tokens and seconds on this side of the network. */
class Clock {
  constructor() {
    this.started = performance.now();
    this.firstAt = null;
    this.numTokens = 0;
  }

  count(numTokens) {
    this.firstAt ??= performance.now();
    this.numTokens += numTokens;
  }

  measured() {
    const seconds = (performance.now() - this.started) / 1000;
    return {
      numTokens: this.numTokens,
      tokensPerSecond: this.numTokens / Math.max(seconds, 1e-3),
      firstTokenSeconds: this.firstAt === null ? null : (this.firstAt - this.started) / 1000,
    };
  }
}

/** The outcome of `streamText` as one line. */
export function outcomeText({ numTokens, tokensPerSecond, firstTokenSeconds, reason, seed }) {
  const ends = { length: "", stop: "the text ended", stopped: "stopped" };
  const parts = [`${numTokens} tokens`, `${tokensPerSecond.toFixed(0)} tokens/s`];
  if (firstTokenSeconds !== null) parts.push(`first after ${(firstTokenSeconds * 1000).toFixed(0)} ms`);
  if (seed !== null) parts.push(`seed ${seed}`);
  if (ends[reason]) parts.push(ends[reason]);
  return parts.join(" · ");
}
