/** The switch that holds what is written to JSON, or to a schema of the user's, where the service says that it can. */

import { json } from "../api.js";
import { toggle } from "../controls.js";
import { h, uniqueId } from "../dom.js";
import { UserError } from "../errors.js";

const PATH = "/v1/chat/completions";
const PARAMETER = "response_format";

/** Whether the API has the parameter: its own document says so. @param {AbortSignal} signal */
async function isAdvertised(signal) {
  const { paths } = await json("/openapi.json", undefined, { signal });
  const schema = paths[PATH]?.post?.requestBody?.content?.["application/json"]?.schema;
  return PARAMETER in (schema?.properties ?? {});
}

/** @param {{signal: AbortSignal}} options */
export function jsonMode({ signal }) {
  const id = uniqueId("schema");
  const area = h("textarea", { id, rows: 4, spellcheck: false, placeholder: '{"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}' });
  const schema = h("div", { class: "control", hidden: true }, h("label", { for: id }, "JSON schema, optional"), area);
  const isOn = toggle({
    label: "Only JSON",
    hint: "Tokens that would break it cannot be drawn.",
    onInput: (value) => {
      schema.hidden = !value;
    },
  });
  const element = h("div", { class: "stack json-mode", hidden: true }, isOn.element, schema);
  isAdvertised(signal).then(
    (can) => {
      element.hidden = !can;
    },
    () => {}, // without the document there is no switch
  );

  /** The members of a request. Throws UserError for a schema that is no JSON. */
  function values() {
    if (element.hidden || !isOn.value) return {};
    if (area.value.trim() === "") return { response_format: { type: "json_object" } };
    return { response_format: { type: "json_schema", json_schema: { name: "answer", schema: parsed(area.value) } } };
  }

  return { element, values };
}

/** @param {string} text */
function parsed(text) {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new UserError(`The schema is not valid JSON: ${error instanceof Error ? error.message : error}.`);
  }
}
