/** Shows the OpenAPI document: the routes by their tag, each with its parameters, its bodies and its answers. */

/** @typedef {Record<string, any>} Json */

/**
 * @param {string} tag
 * @param {Record<string, string>} attributes
 * @param {...(Node | string | null)} children
 */
function element(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children.filter((child) => child !== null));
  return made;
}

/** @param {string[]} head @param {(Node | string)[][]} rows */
function table(head, rows) {
  const line = (/** @type {string} */ tag, /** @type {(Node | string)[]} */ cells) =>
    element("tr", {}, ...cells.map((cell) => element(tag, {}, cell)));
  return element("table", {}, line("th", head), ...rows.map((cells) => line("td", cells)));
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
  if (!whole?.properties) return element("p", { class: "muted" }, kindOf(schema));
  const rows = Object.entries(whole.properties).map(([name, each]) => [
    element("code", {}, name),
    kindOf(each) + ((whole.required ?? []).includes(name) ? " (required)" : ""),
    each.description ?? "",
  ]);
  return table(["member", "value", "meaning"], rows);
}

/** @param {Json} content @param {Json} schemas */
function bodies(content, schemas) {
  return Object.entries(content).map(([type, body]) => {
    const examples = body.example === undefined ? Object.values(body.examples ?? {}) : [{ value: body.example }];
    const shown = examples.map(({ value }) =>
      element("pre", { tabindex: "0" }, typeof value === "string" ? value : JSON.stringify(value, null, 2)),
    );
    const choices = body.schema?.anyOf ?? [body.schema];
    const fields = choices.map((/** @type {Json} */ each) => members(each, schemas));
    return element("div", {}, element("p", {}, element("code", {}, type)), ...fields, ...shown);
  });
}

/** @param {string} method @param {string} path @param {Json} route @param {Json} schemas */
function operation(method, path, route, schemas) {
  const parameters = (route.parameters ?? []).map((/** @type {Json} */ each) => [
    element("code", {}, each.name),
    each.in,
    kindOf(each.schema) + (each.required ? " (required)" : ""),
    each.description ?? each.schema?.description ?? "",
  ]);
  const answers = Object.entries(route.responses ?? {}).map(([status, answer]) => [
    element("code", {}, status),
    element("div", {}, answer.description, ...(status === "200" ? bodies(answer.content ?? {}, schemas) : [])),
  ]);
  const content = route.requestBody?.content;
  return element(
    "details",
    { class: "route", "data-words": `${method} ${path} ${route.summary} ${route.description}`.toLowerCase() },
    element(
      "summary",
      {},
      element("span", { class: "method" }, method.toUpperCase()),
      element("code", {}, path),
      element("span", { class: "summary" }, ` ${route.summary ?? ""}`),
    ),
    element(
      "div",
      {},
      element("p", {}, route.description ?? ""),
      parameters.length ? element("h3", {}, "Parameters") : null,
      parameters.length ? table(["name", "in", "value", "meaning"], parameters) : null,
      content ? element("h3", {}, "Body") : null,
      ...(content ? bodies(content, schemas) : []),
      element("h3", {}, "Answers"),
      table(["status", "meaning"], answers),
    ),
  );
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
  const sections = [...byTag].map(([tag, routes]) => element("section", {}, element("h2", {}, tag), ...routes));
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

const answer = await fetch("/openapi.json");
show(await answer.json());
const field = document.querySelector("#filter");
if (field instanceof HTMLInputElement) field.addEventListener("input", () => filter(field.value));
