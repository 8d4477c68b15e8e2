/** Speaks to the service: JSON, binary bodies, server-sent events, errors in its own words. The key stays in memory. */

import { ToldError } from "./told_error.js";

let key = "";
let settings = null;
const keyCallbacks = new Set();

/** An error as the API words it; `status` is 0 where no answer came. */
export class ApiError extends ToldError {
  constructor(status, code, title, detail, retryAfter = null) {
    super(detail || title);
    this.name = "ApiError";
    Object.assign(this, { status, code, title, detail, retryAfter });
  }
}

/** Use an API key for every request from now on; empty for none. */
export function setKey(value) {
  key = value.trim();
}

/** Whether a key was given. */
export function hasKey() {
  return key !== "";
}

/** Call back whenever the service refuses for want of a (valid) key. Returns a function that ends it. */
export function onKeyWanted(callback) {
  keyCallbacks.add(callback);
  return () => keyCallbacks.delete(callback);
}

/** Send a request; a plain object as `body` goes as JSON, a Blob, string or FormData as it is. Throws ApiError. */
export async function request(path, { method, headers = {}, body, signal, accept } = {}) {
  const sent = { ...headers };
  if (accept) sent.Accept = accept;
  if (key) sent.Authorization = `Bearer ${key}`;
  let content = body;
  if (isPlain(body)) {
    content = JSON.stringify(body);
    sent["Content-Type"] ??= "application/json";
  }
  const verb = method ?? (body === undefined ? "GET" : "POST");
  let response;
  try {
    response = await fetch(path, { method: verb, headers: sent, body: content, signal });
  } catch (error) {
    if (signal?.aborted) throw signal.reason ?? error;
    if (error.name === "AbortError") throw error;
    throw unreachable("The service did not answer. Is it still running?");
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

function unreachable(detail) {
  return new ApiError(0, "unreachable", "No answer", detail);
}

function isPlain(body) {
  return Array.isArray(body) || (body !== null && typeof body === "object" && Object.getPrototypeOf(body) === Object.prototype);
}

async function refusal(response) {
  const text = await response.text().catch(() => "");
  const retryAfter = response.headers.get("Retry-After");
  const error = worded(response.status, response.statusText, text, retryAfter);
  if (response.status === 401) for (const callback of keyCallbacks) callback(error);
  return error;
}

function worded(status, statusText, text, retryAfter = null) {
  let content = null;
  try {
    content = JSON.parse(text);
  } catch {
    return new ApiError(status, String(status), statusText || `Status ${status}`, text.slice(0, 500), retryAfter);
  }
  const inner = content?.error;
  if (typeof inner === "string") return new ApiError(status, String(status), statusText, inner, retryAfter);
  if (inner) return new ApiError(status, inner.code ?? inner.type, inner.type ?? statusText, inner.message, retryAfter);
  return new ApiError(status, content?.code ?? String(status), content?.title ?? statusText, content?.detail ?? text, retryAfter);
}

/** Send a JSON body (GET where it is undefined) and return the parsed answer. */
export async function json(path, body, { signal } = {}) {
  const response = await request(path, { body, signal, accept: "application/json" });
  return response.json();
}

/** Send a JSON body and iterate over the parsed data of the server-sent events, up to `[DONE]`. Throws ApiError. */
export async function* events(path, body, { signal } = {}) {
  const response = await request(path, { body, signal, accept: "text/event-stream" });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let pending = "";
  try {
    for (;;) {
      const { done, value } = await reader.read().catch((error) => {
        throw signal?.aborted ? error : unreachable("The service broke off its answer. Is it still running?");
      });
      if (done) return;
      const blocks = (pending + value).split(/\r?\n\r?\n/);
      pending = blocks.pop();
      for (const block of blocks) {
        const { name, data } = event(block);
        if (data === "[DONE]") return;
        if (data === "") continue;
        const content = JSON.parse(data);
        if (name === "error" || content.error) throw worded(content.status ?? 500, "Error", data);
        yield content;
      }
    }
  } finally {
    // Leaving the loop early ends the request, so that the service stops working for it.
    await reader.cancel().catch(() => {});
  }
}

function event(block) {
  const lines = block.split(/\r?\n/);
  const data = lines.filter((line) => line.startsWith("data:")).map((line) => line.slice(5).replace(/^ /, ""));
  const name = lines.find((line) => line.startsWith("event:"))?.slice(6).trim() ?? "";
  return { name, data: data.join("\n") };
}

/** The path of a model, or of something that is asked of it: `modelPath("mnist", "classify")`. */
export function modelPath(name, route) {
  const path = `/v1/models/${encodeURIComponent(name)}`;
  return route ? `${path}/${route}` : path;
}

/** The model versions that `/v1/models` lists now: id, task, version, state, description. */
export async function models({ signal } = {}) {
  return (await json("/v1/models", undefined, { signal })).data;
}

/** The card of a model: manifest, device, statistics. */
export function card(name, { signal } = {}) {
  return json(modelPath(name), undefined, { signal });
}

/** What the service tells its page: version, burst_allowed, needs_key. Asked once. */
export function config() {
  settings ??= json("/playground/config.json");
  settings.catch(() => {
    settings = null;
  });
  return settings;
}
