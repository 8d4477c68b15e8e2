/** Sends requests to the service: JSON, binary bodies, server-sent events. The API key stays in memory. */

import { ApiError, isAbort } from "./errors.js";

/** @import { ModelCard, ModelEntry, PageSettings, RequestOptions } from "./types.d.ts" */

const MAX_SEED = 1e6; // short enough to be read out
const MAX_DETAIL = 500;

let key = "";
/** @type {Promise<PageSettings> | null} */
let settings = null;
/** @type {Set<() => void>} */
const keyCallbacks = new Set();

/**
 * Use an API key for every request from now on; empty for none.
 *
 * @param {string} value
 */
export function setKey(value) {
  key = value.trim();
}

/** Whether a key was given. */
export function hasKey() {
  return key !== "";
}

/**
 * Call back whenever the service refuses a request for want of a (valid) key.
 *
 * @param {() => void} callback
 */
export function onKeyNeeded(callback) {
  keyCallbacks.add(callback);
}

/**
 * Send a request; a plain object as `body` goes as JSON, a Blob, string or FormData as it is. Throws ApiError.
 *
 * @param {string} path
 * @param {RequestOptions} [options]
 */
export async function request(path, { headers = {}, body, signal, accept } = {}) {
  const isJson = isPlain(body);
  const sent = {
    ...(isJson ? { "Content-Type": "application/json" } : {}),
    ...(accept ? { Accept: accept } : {}),
    ...(key ? { Authorization: `Bearer ${key}` } : {}),
    ...headers,
  };
  const content = isJson ? JSON.stringify(body) : /** @type {BodyInit | undefined} */ (body);
  const method = body === undefined ? "GET" : "POST";
  const response = await fetch(path, { method, headers: sent, body: content ?? null, signal: signal ?? null }).catch((error) => {
    throw isAbort(error) || signal?.aborted ? error : unreachable("The service did not answer. Is it still running?");
  });
  if (!response.ok) throw await errorOf(response);
  return response;
}

/** @param {string} detail */
function unreachable(detail) {
  return new ApiError(0, "unreachable", "No answer", detail);
}

/** @param {unknown} body */
function isPlain(body) {
  return Array.isArray(body) || (body !== null && typeof body === "object" && Object.getPrototypeOf(body) === Object.prototype);
}

/** @param {Response} response */
async function errorOf(response) {
  const text = await response.text().catch(() => "");
  if (response.status === 401) for (const callback of keyCallbacks) callback();
  return parseError(response.status, response.statusText, text, response.headers.get("Retry-After"));
}

/**
 * The error in a body: a problem document, OpenAI's `{error: {...}}`, or V2's `{error: "..."}`.
 *
 * @param {number} status
 * @param {string} statusText
 * @param {string} text
 * @param {string | null} [retryAfter]
 */
function parseError(status, statusText, text, retryAfter = null) {
  const { code = String(status), title = statusText || `Status ${status}`, detail = text.slice(0, MAX_DETAIL) } = problemIn(text);
  return new ApiError(status, code, title, detail, retryAfter);
}

/** @param {string} text @returns {{code?: string, title?: string, detail?: string}} */
function problemIn(text) {
  let content;
  try {
    content = JSON.parse(text);
  } catch {
    return {}; // a proxy's page, perhaps
  }
  const inner = content?.error;
  if (typeof inner === "string") return { detail: inner };
  return inner ? { code: inner.code ?? inner.type, title: inner.type, detail: inner.message } : (content ?? {});
}

/**
 * Send a JSON body (GET where it is undefined) and return the parsed answer.
 *
 * @param {string} path
 * @param {unknown} [body]
 * @param {{signal?: AbortSignal}} [options]
 * @returns {Promise<any>} whose shape the caller declares
 */
export async function json(path, body, { signal } = {}) {
  const response = await request(path, { body, signal, accept: "application/json" });
  return response.json();
}

/**
 * Send a JSON body and iterate over the parsed data of the server-sent events, up to `[DONE]`. Throws ApiError.
 *
 * @param {string} path
 * @param {unknown} body
 * @param {{signal?: AbortSignal}} [options]
 * @returns {AsyncGenerator<any, void, void>}
 */
export async function* events(path, body, { signal } = {}) {
  const response = await request(path, { body, signal, accept: "text/event-stream" });
  if (!response.body) return;
  const decoder = /** @type {ReadableWritablePair<string, Uint8Array<ArrayBuffer>>} */ (new TextDecoderStream());
  const reader = response.body.pipeThrough(decoder).getReader();
  let pending = "";
  try {
    for (;;) {
      const { done, value } = await reader.read().catch((error) => {
        throw signal?.aborted ? error : unreachable("The connection broke before the answer was complete. Is the service still running?");
      });
      if (done) return;
      const blocks = (pending + value).split(/\r?\n\r?\n/);
      pending = blocks.pop() ?? "";
      for (const block of blocks) {
        const { name, data } = parseEvent(block);
        if (data === "[DONE]") return;
        if (data === "") continue;
        const content = JSON.parse(data);
        if (name === "error" || content.error) throw parseError(content.status ?? 500, "Error", data);
        yield content;
      }
    }
  } finally {
    // Leaving the loop early ends the request, so that the service stops working for it.
    await reader.cancel().catch(() => {});
  }
}

/** @param {string} block */
function parseEvent(block) {
  const lines = block.split(/\r?\n/);
  const data = lines.filter((line) => line.startsWith("data:")).map((line) => line.slice(5).replace(/^ /, ""));
  const name = lines.find((line) => line.startsWith("event:"))?.slice(6).trim() ?? "";
  return { name, data: data.join("\n") };
}

/**
 * The path of a model, or of one of its routes: `modelPath("mnist", "classify")`.
 *
 * @param {string} name
 * @param {string} [route]
 */
export function modelPath(name, route) {
  const path = `/v1/models/${encodeURIComponent(name)}`;
  return route ? `${path}/${route}` : path;
}

/**
 * The model versions that `/v1/models` lists now.
 *
 * @param {{signal?: AbortSignal}} [options]
 * @returns {Promise<ModelEntry[]>}
 */
export async function listModels({ signal } = {}) {
  return (await json("/v1/models", undefined, { signal })).data;
}

/**
 * The card of a model: manifest, device, statistics.
 *
 * @param {string} name
 * @param {{signal?: AbortSignal}} [options]
 * @returns {Promise<ModelCard>}
 */
export function modelCard(name, { signal } = {}) {
  return json(modelPath(name), undefined, { signal });
}

/** The service's settings that concern the page; fetched once. */
export function config() {
  settings ??= json("/playground/config.json");
  settings.catch(() => {
    settings = null;
  });
  return settings;
}

/**
 * Do work every so many seconds until the signal aborts; after a failure too, unless `onError` returns false.
 *
 * @param {object} options
 * @param {number} options.seconds
 * @param {() => Promise<void>} options.work
 * @param {(error: unknown) => boolean | void} options.onError
 * @param {AbortSignal} options.signal
 */
export function repeat({ seconds, work, onError, signal }) {
  let timer = 0;

  async function next() {
    try {
      await work();
    } catch (error) {
      if (signal.aborted || onError(error) === false) return;
    }
    if (!signal.aborted) timer = setTimeout(next, seconds * 1000);
  }

  signal.addEventListener("abort", () => clearTimeout(timer));
  next();
}

/** A random seed. */
export const randomSeed = () => Math.floor(Math.random() * MAX_SEED);

/**
 * The seed that the user wrote. Anything but an integer is sent as it is: the service says what is valid.
 *
 * @param {string} text
 */
export function parseSeed(text) {
  const number = Number(text);
  return text.trim() !== "" && Number.isSafeInteger(number) ? number : text;
}
