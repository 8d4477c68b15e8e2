/** Shows the OpenAPI document: the routes by their tag, each with its parameters, its bodies, its answers and a form that sends it. */

import { h } from "./js/dom.js";
import { tryIt } from "./try_it.js";

/** @typedef {Record<string, any>} Json */

/** @param {string[]} head @param {(Node | string)[][]} rows */
function table(head, rows) {
  const line = (/** @type {"th" | "td"} */ tag, /** @type {(Node | string)[]} */ cells) => h("tr", {}, cells.map((cell) => h(tag, {}, cell)));
  return h("div", { class: "scroll" }, h("table", {}, line("th", head), rows.map((cells) => line("td", cells))));
}

/** What a schema says, in a line. @param {Json | undefined} schema @returns {string} */
function kindOf(schema) {
  if (!schema) return "";
  if (schema.$ref) return schema.$ref.split("/").at(-1);
  const parts = schema.anyOf ?? schema.oneOf;
  if (parts) return parts.map(kindOf).join(" or ");
  if (schema.enum) return schema.enum.map((/** @type {unknown} */ value) => JSON.stringify(value)).join(" or ");
  const kind = schema.type === "array" ? `array of ${kindOf(schema.items) || "anything"}` : `${schema.type ?? "anything"}`;
  const bounds = ["minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum", "maxLength", "maxItems", "pattern"];
  const told = bounds.filter((name) => name in schema).map((name) => `${name} ${schema[name]}`);
  return [kind, schema.format, ...told].filter(Boolean).join(", ");
}

/** @param {Json | undefined} schema @param {Json} schemas @returns {Json | undefined} */
function resolved(schema, schemas) {
  return schema?.$ref ? schemas[schema.$ref.split("/").at(-1)] : schema;
}

/** The members of a JSON object, or what else it is. @param {Json | undefined} schema @param {Json} schemas */
function members(schema, schemas) {
  const whole = resolved(schema, schemas);
  if (!whole?.properties) return h("p", { class: "muted" }, kindOf(schema));
  const rows = Object.entries(whole.properties).map(([name, each]) => [
    h("code", {}, name),
    kindOf(each) + ((whole.required ?? []).includes(name) ? " (required)" : ""),
    each.description ?? "",
  ]);
  return table(["member", "value", "meaning"], rows);
}

/** @param {Json} content @param {Json} schemas */
function bodies(content, schemas) {
  return Object.entries(content).map(([type, body]) => {
    const choices = body.schema?.anyOf ?? [body.schema];
    const fields = choices.map((/** @type {Json} */ each) => members(each, schemas));
    return h("div", { class: "stack" }, h("p", {}, h("code", {}, type)), fields);
  });
}

/** @param {Json} route @param {Json} schemas */
function contents(route, schemas) {
  const parameters = (route.parameters ?? []).map((/** @type {Json} */ each) => [
    h("code", {}, each.name),
    each.in,
    kindOf(each.schema) + (each.required ? " (required)" : ""),
    each.description ?? each.schema?.description ?? "",
  ]);
  const answers = Object.entries(route.responses ?? {}).map(([status, answer]) => [
    h("code", {}, status),
    h("div", {}, answer.description, status === "200" ? bodies(answer.content ?? {}, schemas) : null),
  ]);
  const content = route.requestBody?.content;
  return [
    ...(parameters.length ? [h("h3", {}, "Parameters"), table(["name", "in", "value", "meaning"], parameters)] : []),
    ...(content ? [h("h3", {}, "Body"), ...bodies(content, schemas)] : []),
    h("h3", {}, "Answers"),
    table(["status", "meaning"], answers),
  ];
}

/** @param {string} method @param {string} path @param {Json} route @param {Json} schemas */
function operation(method, path, route, schemas) {
  const body = h("div", { class: "route-body" });
  const words = `${method} ${path} ${route.summary} ${route.description}`.toLowerCase();
  const element = h(
    "details",
    { class: "route card", dataset: { words }, on: { toggle: fill } },
    h(
      "summary",
      {},
      h("span", { class: `method ${method}` }, method.toUpperCase()),
      h("code", {}, path),
      h("span", { class: "summary muted" }, route.summary ?? ""),
    ),
    body,
  );

  /** Built when it is first opened: a hundred forms are a lot of elements. */
  function fill() {
    if (body.childElementCount) return;
    body.append(h("p", {}, route.description ?? ""), tryIt(method, path, route), ...contents(route, schemas));
  }

  return element;
}

/** @param {Json} openapi */
function show(openapi) {
  /** @type {Map<string, Node[]>} */
  const byTag = new Map();
  for (const [path, methods] of Object.entries(openapi.paths)) {
    for (const [method, route] of Object.entries(methods)) {
      const tag = route.tags?.[0] ?? "other";
      byTag.set(tag, [...(byTag.get(tag) ?? []), operation(method, path, route, openapi.components?.schemas ?? {})]);
    }
  }
  const sections = [...byTag].map(([tag, routes]) => h("section", {}, h("h2", {}, tag), routes));
  document.querySelector("#routes")?.replaceChildren(...sections);
}

/** @param {string} text */
function filter(text) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  for (const route of document.querySelectorAll("details.route")) {
    const known = route.getAttribute("data-words") ?? "";
    route.toggleAttribute("hidden", !words.every((word) => known.includes(word)));
  }
  for (const section of document.querySelectorAll("section")) {
    section.hidden = !section.querySelector("details.route:not([hidden])");
  }
}

useTheme();
const answer = await fetch("/openapi.json");
show(await answer.json());
const field = document.querySelector("#filter");
if (field instanceof HTMLInputElement) field.addEventListener("input", () => filter(field.value));

/** The theme that was chosen in the playground. */
function useTheme() {
  try {
    const theme = localStorage.getItem("hotplate-theme");
    if (theme === "dark" || theme === "light") document.documentElement.dataset.theme = theme;
  } catch {
    // Storage is switched off: the system's theme.
  }
}
