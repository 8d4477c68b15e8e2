/** Writes the `curl` command of what a panel just did, and a panel that shows it with a copy button. */

import { config, hasKey } from "./api.js";
import { announce, h } from "./dom.js";

let wantsKey = false;
config().then(
  (settings) => {
    wantsKey = settings.needs_key;
  },
  () => {},
);

/** Quote a word for a POSIX shell; plain words stay as they are. */
export function quoted(word) {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}

/**
 * The command of a request: `body` is JSON (an object) or a text, `bodyFile` the name of a file sent as it is, `form` an
 * object of fields (a value that starts with `@` names a file), `output` the file that takes a binary answer, `times` how
 * often it is sent, `atOnce` how many at the same time.
 */
export function curlCommand({ method, path, headers = {}, body, bodyFile, form, output, stream, times, atOnce = 1 }) {
  const sends = body !== undefined || bodyFile !== undefined || form !== undefined;
  const verb = method ?? (sends ? "POST" : "GET");
  const first = times ? [`seq ${times} | xargs -P ${atOnce} -I{} curl -s -o /dev/null`] : ["curl"];
  if (stream) first.push("--no-buffer");
  if (verb !== (sends ? "POST" : "GET")) first.push("-X", verb);
  first.push(quoted(new URL(path, location.href).href));
  const lines = [first.join(" ")];
  if (hasKey() || wantsKey) lines.push('-H "Authorization: Bearer $HOTPLATE_API_KEY"');
  const isJson = body !== undefined && typeof body !== "string";
  const told = isJson ? { "Content-Type": "application/json", ...headers } : headers;
  for (const [name, value] of Object.entries(told)) lines.push(`-H ${quoted(`${name}: ${value}`)}`);
  if (body !== undefined) lines.push(`--data-binary ${quoted(isJson ? JSON.stringify(body) : body)}`);
  if (bodyFile !== undefined) lines.push(`--data-binary ${quoted(`@${bodyFile}`)}`);
  for (const [name, value] of Object.entries(form ?? {})) {
    for (const item of [value].flat()) lines.push(`-F ${quoted(`${name}=${item}`)}`);
  }
  if (output) lines.push(`--output ${quoted(output)}`);
  return lines.join(" \\\n  ");
}

/** A panel for the command of the latest request: `{element, show(request)}`, with the members of `curlCommand`. */
export function curlPanel() {
  const code = h("code", {}, "");
  const copy = h("button", { type: "button", class: "button small", on: { click: () => copyText() } }, "Copy");
  const pre = h("pre", { class: "curl-text", tabindex: "0", role: "region", "aria-label": "curl command" }, code);
  const element = h(
    "section",
    { class: "curl", hidden: true, "aria-label": "The same request with curl" },
    h("div", { class: "curl-head" }, h("span", {}, "The same with curl"), copy),
    pre,
  );

  async function copyText() {
    const text = code.textContent;
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      // No clipboard without a secure context or permission: select it, so that Ctrl+C copies.
      getSelection().selectAllChildren(code);
      announce("Selected. Press Ctrl+C to copy.");
      return;
    }
    copy.textContent = "Copied";
    announce("Copied");
    setTimeout(() => {
      copy.textContent = "Copy";
    }, 1500);
  }

  return {
    element,
    show(request) {
      code.textContent = curlCommand(request);
      element.hidden = false;
    },
  };
}
