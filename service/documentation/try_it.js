/** A form that sends one route's request: its parameters, its body, the curl command and the answer. */

import { h, uniqueId } from "./js/dom.js";

/** @typedef {Record<string, any>} Json */
/** @typedef {{name: string, in: string, required?: boolean, schema?: Json, read: () => string, element: HTMLElement}} Field */
/** @typedef {{element: HTMLElement, read: () => {headers: Record<string, string>, body: BodyInit | null, shown: string}}} Body */

const MAX_SHOWN = 20_000;
// Browsers set these themselves, or refuse them.
const UNSENDABLE = new Set(["Inference-Header-Content-Length"]);

// What the last word of a path asks for, where not every model does it: the models of that task come first.
/** @type {Partial<Record<string, string>>} */
const TASKS = {
  classify: "image-classification",
  embed: "image-classification",
  stylize: "style-transfer",
  styles: "style-transfer",
  generate: "text-generation",
  generate_stream: "text-generation",
  "next-token": "text-generation",
  tokenize: "text-generation",
  detokenize: "text-generation",
  score: "text-generation",
  attention: "text-generation",
  decode: "image-generation",
  interpolate: "image-generation",
  arithmetic: "image-generation",
  encode: "image-generation",
  reconstruct: "image-generation",
};

/** @type {Promise<{id: string, task: string}[]> | null} */
let models = null;

/** The names of the models, those that a path is for first; the service is asked once a form needs them. @param {string} path */
async function modelNames(path) {
  models ??= fetch("/v1/models", { headers: keyHeader() })
    .then(async (response) => (response.ok ? (await response.json()).data : []))
    .catch(() => []);
  const task = TASKS[path.split("/").at(-1) ?? ""];
  const fits = (/** @type {{task: string}} */ model) => Number(model.task === task);
  return [...(await models)].sort((a, b) => fits(b) - fits(a)).map(({ id }) => id);
}

/** @returns {Record<string, string>} */
function keyHeader() {
  const input = document.querySelector("#key");
  const key = input instanceof HTMLInputElement ? input.value.trim() : "";
  return key ? { Authorization: `Bearer ${key}` } : {};
}

/** @param {string} method @param {string} path @param {Json} route */
export function tryIt(method, path, route) {
  const parameters = (route.parameters ?? []).filter((/** @type {Json} */ one) => !UNSENDABLE.has(one.name));
  const fields = parameters.map((/** @type {Json} */ one) => parameterField(one, path));
  const body = bodyField(route.requestBody?.content ?? {});
  const answer = h("div", { class: "try-answer", "aria-live": "polite" });
  const command = h("code", {});
  const shown = h("details", {}, h("summary", {}, "The same with curl"), h("pre", { tabindex: 0 }, command));
  const send = h("button", { type: "submit", class: "button primary" }, "Send");
  const stop = h("button", { type: "button", class: "button", disabled: true, on: { click: () => running?.abort() } }, "Stop");
  const element = h(
    "form",
    { class: "try", on: { submit: submitted } },
    h("h3", {}, "Try it"),
    fields.length ? h("div", { class: "try-fields" }, fields.map((/** @type {Field} */ one) => one.element)) : null,
    body?.element,
    h("div", { class: "row" }, send, stop),
    shown,
    answer,
  );
  /** @type {AbortController | null} */
  let running = null;
  element.addEventListener("input", describe);
  describe();

  function request() {
    const { headers = {}, body: content = null, shown: data = "" } = body?.read() ?? {};
    const all = { ...keyHeader(), ...headers, ...valuesOf(fields, "header") };
    return { url: urlOf(path, fields), headers: /** @type {Record<string, string>} */ (all), content, data };
  }

  function describe() {
    const { url, headers, data } = request();
    const lines = [`curl ${method === "get" ? "" : `-X ${method.toUpperCase()} `}${quoted(url)}`];
    for (const [name, value] of Object.entries(headers)) {
      lines.push(name === "Authorization" ? '-H "Authorization: Bearer $HOTPLATE_API_KEY"' : `-H ${quoted(`${name}: ${value}`)}`);
    }
    if (data) lines.push(data);
    command.textContent = lines.join(" \\\n  ");
  }

  /** @param {SubmitEvent} event */
  async function submitted(event) {
    event.preventDefault();
    running?.abort();
    const mine = new AbortController();
    running = mine;
    const { url, headers, content } = request();
    stop.disabled = false;
    answer.replaceChildren(h("p", { class: "muted" }, "Sent …"));
    try {
      const began = performance.now();
      const sent = { method: method.toUpperCase(), headers, body: content, signal: mine.signal };
      await showAnswer(answer, await fetch(url, sent), began);
    } catch (error) {
      if (!mine.signal.aborted) answer.replaceChildren(h("p", { class: "try-status bad" }, "The service did not answer. Is it still running?"));
      else if (running === mine) answer.append(h("p", { class: "muted" }, "Stopped."));
    }
    if (running === mine) stop.disabled = true;
  }

  return element;
}

/** @param {Json} parameter @param {string} path @returns {Field} */
function parameterField(parameter, path) {
  const { name, in: where, required = false, schema = {} } = parameter;
  const id = uniqueId("try");
  const choices = schema.enum ?? (schema.type === "boolean" ? ["true", "false"] : null);
  const input = choices
    ? h("select", { id }, h("option", { value: "" }, "–"), choices.map((/** @type {string} */ one) => h("option", {}, one)))
    : h("input", { id, type: "text", required, placeholder: schema.default === undefined ? "" : String(schema.default), autocomplete: "off" });
  if (where === "path" && name === "model") offerModels(/** @type {HTMLInputElement} */ (input), path);
  if (where === "path" && name === "version") input.value = "1";
  const label = h("label", { for: id }, `${name}${required ? "" : ", optional"}`);
  return { name, in: where, required, schema, read: () => input.value, element: h("div", { class: "control" }, label, input) };
}

/** @param {HTMLInputElement} input @param {string} path */
async function offerModels(input, path) {
  const list = h("datalist", { id: uniqueId("models") });
  input.setAttribute("list", list.id);
  const all = await modelNames(path);
  list.append(...all.map((name) => h("option", { value: name })));
  input.after(list);
  input.value ||= all[0] ?? "";
  input.dispatchEvent(new Event("input", { bubbles: true }));
}

/**
 * The form of a body: a file for pictures, a text for JSON, each field of a form.
 *
 * @param {Json} content
 * @returns {Body | null}
 */
function bodyField(content) {
  const types = Object.keys(content);
  if (types.some((type) => type.startsWith("image/"))) return fileBody();
  if (content["application/json"]) return jsonBody(content["application/json"]);
  if (content["multipart/form-data"]) return formBody(content["multipart/form-data"].schema?.properties ?? {});
  return types.length ? fileBody() : null;
}

/** @returns {Body} */
function fileBody() {
  const id = uniqueId("try");
  const input = h("input", { id, type: "file" });
  const element = h("div", { class: "control" }, h("label", { for: id }, "Body: a file"), input);
  return {
    element,
    read() {
      const file = input.files?.[0] ?? null;
      const type = file?.type || "application/octet-stream";
      return { headers: { "Content-Type": type }, body: file, shown: file ? `--data-binary ${quoted(`@${file.name}`)}` : "" };
    },
  };
}

/** @param {Json} media @returns {Body} */
function jsonBody(media) {
  const id = uniqueId("try");
  const examples = media.example === undefined ? Object.values(media.examples ?? {}).map(({ value }) => value) : [media.example];
  const texts = examples.map((example) => JSON.stringify(example, null, 2));
  const area = h("textarea", { id, spellcheck: false });
  area.value = texts[0] ?? "{}";
  const others = texts.map((text, index) =>
    h("button", { type: "button", class: "button small", on: { click: () => use(text) } }, texts.length > 1 ? `Example ${index + 1}` : "Example"),
  );
  const element = h("div", { class: "control" }, h("div", { class: "row spread" }, h("label", { for: id }, "Body: JSON"), h("div", { class: "row" }, others)), area);

  /** @param {string} text */
  function use(text) {
    area.value = text;
    area.dispatchEvent(new Event("input", { bubbles: true }));
  }

  return { element, read: () => ({ headers: { "Content-Type": "application/json" }, body: area.value, shown: `--data-binary ${quoted(area.value)}` }) };
}

/** @param {Json} properties @returns {Body} */
function formBody(properties) {
  const inputs = Object.entries(properties).map(([name, schema]) => {
    const isFile = schema.format === "binary" || schema.items?.format === "binary";
    const id = uniqueId("try");
    return { name, id, input: h("input", { id, type: isFile ? "file" : "text" }) };
  });
  const element = h(
    "div",
    { class: "try-fields" },
    inputs.map(({ name, id, input }) => h("div", { class: "control" }, h("label", { for: id }, name), input)),
  );

  function read() {
    const form = new FormData();
    const told = [];
    for (const { name, input } of inputs) {
      const value = input.type === "file" ? input.files?.[0] : input.value;
      if (!value) continue;
      form.append(name, value);
      told.push(`-F ${quoted(`${name}=${value instanceof File ? `@${value.name}` : value}`)}`);
    }
    return { headers: {}, body: form, shown: told.join(" \\\n  ") };
  }

  return { element, read };
}

/** @param {Field[]} fields @param {string} where */
function valuesOf(fields, where) {
  const filled = fields.filter((one) => one.in === where && one.read() !== "");
  return Object.fromEntries(filled.map((one) => [one.name, one.read()]));
}

/** @param {string} path @param {Field[]} fields */
function urlOf(path, fields) {
  const filled = path.replace(/\{(\w+)\}/g, (_, name) => encodeURIComponent(fields.find((one) => one.in === "path" && one.name === name)?.read() ?? ""));
  const query = new URLSearchParams(valuesOf(fields, "query")).toString();
  return new URL(query ? `${filled}?${query}` : filled, location.href).href;
}

/** @param {string} word */
const quoted = (word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`);

/**
 * Show an answer: a picture as one, JSON indented, an event stream as it comes.
 *
 * @param {HTMLElement} place
 * @param {Response} response
 * @param {number} began
 */
async function showAnswer(place, response, began) {
  const type = response.headers.get("Content-Type") ?? "";
  const status = h("p", { class: response.ok ? "try-status" : "try-status bad" }, `${response.status} ${response.statusText}`);
  const details = [`${(performance.now() - began).toFixed(0)} ms`, type, response.headers.get("Server-Timing") ?? ""].filter(Boolean);
  place.replaceChildren(status, h("p", { class: "muted" }, details.join(" · ")));
  if (type.startsWith("image/")) {
    const url = URL.createObjectURL(await response.blob());
    place.append(h("img", { src: url, alt: "The answer", on: { load: () => URL.revokeObjectURL(url) } }));
    return;
  }
  const text = h("pre", { tabindex: 0 });
  place.append(text);
  if (!response.body) return;
  const decoder = /** @type {ReadableWritablePair<string, Uint8Array<ArrayBuffer>>} */ (new TextDecoderStream());
  const reader = response.body.pipeThrough(decoder).getReader();
  let received = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    received += value;
    text.textContent = cut(received);
  }
  if (type.includes("json")) text.textContent = cut(indented(received));
}

/** @param {string} text */
function indented(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

/** @param {string} text */
const cut = (text) => (text.length > MAX_SHOWN ? `${text.slice(0, MAX_SHOWN)}\n… and ${(text.length - MAX_SHOWN).toLocaleString("en")} characters more` : text);
