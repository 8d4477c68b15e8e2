/** The `curl` command of a panel's latest request, with a copy button. */

import { config, hasKey } from "./api.js";
import { button } from "./controls.js";
import { announce, h } from "./dom.js";

/** @import { Child, CurlRequest } from "./types.d.ts" */

const COPIED_MILLISECONDS = 1500;

let needsKey = false;
config().then(
  (settings) => {
    needsKey = settings.needs_key;
  },
  () => {},
);

/**
 * Quote a word for a POSIX shell; plain words stay as they are.
 *
 * @param {string} word
 */
function quoted(word) {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}

/**
 * The command that sends a request.
 *
 * @param {CurlRequest} request
 */
export function curlCommand({ path, headers = {}, body, bodyFile, form = {}, output, stream, times, atOnce = 1 }) {
  const curl = times ? `seq ${times} | xargs -P ${atOnce} -I{} curl -s -o /dev/null` : "curl";
  const lines = [[curl, ...(stream ? ["--no-buffer"] : []), quoted(new URL(path, location.href).href)].join(" ")];
  if (hasKey() || needsKey) lines.push('-H "Authorization: Bearer $HOTPLATE_API_KEY"');
  const isText = typeof body === "string";
  const sent = body === undefined || isText ? headers : { "Content-Type": "application/json", ...headers };
  for (const [name, value] of Object.entries(sent)) lines.push(`-H ${quoted(`${name}: ${value}`)}`);
  if (body !== undefined) lines.push(`--data-binary ${quoted(isText ? body : JSON.stringify(body))}`);
  if (bodyFile !== undefined) lines.push(`--data-binary ${quoted(`@${bodyFile}`)}`);
  for (const [name, value] of Object.entries(form)) {
    for (const item of [value].flat()) lines.push(`-F ${quoted(`${name}=${item}`)}`);
  }
  if (output) lines.push(`--output ${quoted(output)}`);
  return lines.join(" \\\n  ");
}

/**
 * A box for code with a copy button, hidden until it is shown; `head` stands above the code, `title` names the box and
 * `label` the code to screen readers.
 *
 * @param {{head: Child, title: string, label: string}} options
 */
export function codeBox({ head, title, label }) {
  const code = h("code", {}, "");
  const copy = button("Copy", copyText, { kind: "small" });
  const pre = h("pre", { class: "curl-text", tabindex: "0", role: "region", "aria-label": label }, code);
  const element = h("section", { class: "curl", hidden: true, "aria-label": title }, h("div", { class: "curl-head" }, head, copy), pre);

  async function copyText() {
    try {
      await navigator.clipboard.writeText(code.textContent);
    } catch {
      // No clipboard without a secure context or permission: select it, so that Ctrl+C copies.
      getSelection()?.selectAllChildren(code);
      announce("Selected. Press Ctrl+C to copy.");
      return;
    }
    copy.textContent = "Copied";
    announce("Copied");
    setTimeout(() => {
      copy.textContent = "Copy";
    }, COPIED_MILLISECONDS);
  }

  return {
    element,
    get text() {
      return code.textContent;
    },
    set(/** @type {string} */ text) {
      code.textContent = text;
    },
  };
}

/** A box for the command of the latest request, hidden until there is one. */
export function curlPanel() {
  const box = codeBox({ head: h("span", {}, "The same with curl"), title: "The same request with curl", label: "curl command" });

  /** @param {CurlRequest} request */
  function show(request) {
    box.set(curlCommand(request));
    box.element.hidden = false;
  }

  return { element: box.element, show };
}
