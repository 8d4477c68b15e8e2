/** The request of the form as curl, Python and JavaScript, one at a time. */

import { config } from "../api.js";
import { button } from "../controls.js";
import { codeBox, curlCommand } from "../curl.js";
import { h } from "../dom.js";
import { saveButton } from "../image_files.js";
import { fileName, isShort, javascriptProgram, pythonProgram } from "./programs.js";

/** @import { UserError } from "../errors.js" */
/** @import { InferRequest } from "../types.d.ts" */

const LANGUAGES = ["curl", "Python", "JavaScript"];

/** @param {string} model */
export function codePanel(model) {
  let language = LANGUAGES[0];
  let needsKey = false;
  /** @type {InferRequest | null} */
  let shown = null;
  const files = h("div", { class: "row" });
  const hint = h("p", { class: "muted" });
  const choices = LANGUAGES.map((name) => button(name, () => choose(name), { kind: "small", "aria-pressed": String(name === language) }));
  const head = h("div", { class: "row languages", role: "group", "aria-label": "Language" }, choices);
  const box = codeBox({ head, title: "The same request as a program", label: "Program" });
  const element = h("div", { class: "stack code" }, box.element, files, hint);
  config().then(
    (settings) => {
      needsKey = settings.needs_key;
      write();
    },
    () => {},
  );

  /** @param {string} name */
  function choose(name) {
    language = name;
    choices.forEach((choice, index) => choice.setAttribute("aria-pressed", String(LANGUAGES[index] === name)));
    write();
  }

  function write() {
    if (!shown) return;
    const request = shown;
    const file = fileName(request, model);
    const options = { model, needsKey };
    if (language === "Python") box.set(pythonProgram(request, options));
    else if (language === "JavaScript") box.set(javascriptProgram(request, options));
    else box.set(curlOf(request, file));
    const pictures = request.tensors.flatMap(({ picture }) => picture?.file ?? []);
    const named = [{ blob: request.body, name: file }, ...pictures].filter(({ name }) => box.text.includes(name));
    const savers = named.map(({ blob, name }) => {
      const saver = saveButton();
      saver.show(blob, name);
      return saver.element;
    });
    files.replaceChildren(...savers);
    const body = named.find(({ name }) => name === file);
    explain(body ? `${file} holds the inputs as the protocol has them, ${request.body.size.toLocaleString("en")} bytes.` : "");
  }

  /** @param {string} text */
  function explain(text) {
    hint.textContent = text;
    hint.hidden = text === "";
    files.hidden = files.childElementCount === 0;
  }

  /** @param {InferRequest} request */
  function show(request) {
    shown = request;
    box.element.hidden = false;
    write();
  }

  /** @param {UserError} reason */
  function wait(reason) {
    shown = null;
    box.element.hidden = true;
    files.replaceChildren();
    explain(`The request appears once the form is complete. ${reason.message}`);
  }

  return { element, show, wait };
}

/** @param {InferRequest} request @param {string} file */
function curlOf(request, file) {
  const output = request.answersRaw ? { output: file.replace(/-request\.\w+$/, "-answer.bin") } : {};
  const body = isShort(request) ? { body: request.json } : { bodyFile: file };
  return curlCommand({ path: request.path, headers: request.headers, ...body, ...output });
}
