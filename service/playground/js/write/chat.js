/** The panel of a conversation, for models whose tokenizer has a template for one. */

import { events } from "../api.js";
import { button, field, statusLine } from "../controls.js";
import { announce, clear, h, uniqueId } from "../dom.js";
import { isAbort } from "../errors.js";
import { panel } from "../panel.js";
import { isAtEnd } from "./ghost.js";

/** @import { SamplingSettings } from "../pages/write.js" */
/** @typedef {{role: "system" | "user" | "assistant", content: string}} Message */

const PATH = "/v1/chat/completions";
const OPENINGS = ["Who are you?", "Tell me a short story.", "Give me three names for a boat."];

// The conversation stays when the user goes to another page and back.
/** @type {Message[]} */
let messages = [];

/** @param {{model: string, settings: SamplingSettings, signal: AbortSignal}} options */
export function chatPanel({ model, settings, signal }) {
  const id = uniqueId("say");
  const log = h("div", { class: "chat-log", role: "log", tabindex: 0, "aria-label": "Conversation" });
  const openings = h("div", { class: "row chat-openings" }, OPENINGS.map((text) => button(text, () => say(text), { kind: "small" })));
  const area = h("textarea", { id, rows: 2, placeholder: "Say something", on: { keydown: pressed } });
  const system = field({ label: "Instructions for the model", placeholder: "none", autocomplete: "off" });
  const send = button("Send", () => say(area.value), { kind: "primary" });
  const stop = button("Stop", () => running?.abort(), { disabled: true });
  const reset = button("Clear", empty, { kind: "small" });
  const status = statusLine();
  const card = panel(
    {
      title: "Chat",
      hint: "Enter sends, Shift+Enter begins a line. The model's own template writes the conversation as its text.",
      kind: "write-chat",
    },
    log,
    openings,
    h("div", { class: "control" }, h("label", { for: id }, "Your message"), area),
    h("div", { class: "row" }, send, stop, reset),
    status.element,
    h("details", {}, h("summary", {}, "Instructions"), system.element),
  );
  /** @type {AbortController | null} */
  let running = null;
  signal.addEventListener("abort", () => running?.abort());
  render();

  /** @param {KeyboardEvent} event */
  function pressed(event) {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    say(area.value);
  }

  function render() {
    clear(log).append(...messages.map((message) => bubble(message)));
    openings.hidden = messages.length > 0;
    log.hidden = messages.length === 0;
    log.scrollTop = log.scrollHeight;
  }

  function empty() {
    running?.abort();
    messages = [];
    status.say("");
    card.errors.hide();
    render();
    area.focus();
  }

  /** @param {string} text */
  function say(text) {
    if (running || text.trim() === "") return undefined;
    messages = [...messages, { role: "user", content: text.trim() }];
    area.value = "";
    render();
    return card.guard(answer);
  }

  async function answer() {
    const mine = new AbortController();
    const said = messages;
    running = mine;
    setRunning(true);
    const words = { role: /** @type {const} */ ("assistant"), content: "" };
    const shown = bubble(words);
    log.append(shown);
    try {
      const instructions = system.value.trim();
      const sent = instructions ? [{ role: "system", content: instructions }, ...said] : said;
      const body = { model, messages: sent, ...settings.values() };
      card.show({ path: PATH, body: { ...body, stream: true }, stream: true });
      for await (const event of events(PATH, { ...body, stream: true }, { signal: mine.signal })) {
        const follows = isAtEnd(log);
        words.content += event.choices[0]?.delta?.content ?? "";
        shown.lastChild?.replaceWith(h("p", {}, words.content.trimStart()));
        if (follows) log.scrollTop = log.scrollHeight;
      }
    } catch (error) {
      if (!isAbort(error)) {
        // What was not answered can be sent again.
        if (messages === said) messages = said.slice(0, -1);
        area.value ||= said.at(-1)?.content ?? "";
        throw error;
      }
    } finally {
      if (messages === said && words.content) messages = [...said, words];
      running = null;
      setRunning(false);
      render();
      if (!signal.aborted && words.content) announce(words.content);
    }
  }

  /** @param {boolean} isRunning */
  function setRunning(isRunning) {
    send.disabled = isRunning;
    stop.disabled = !isRunning;
  }

  return { element: card.element };
}

/** @param {Message} message */
function bubble({ role, content }) {
  const name = h("b", { class: "chat-role" }, role === "user" ? "You" : "Model");
  return h("div", { class: `chat-message is-${role}` }, name, h("p", {}, content.trimStart()));
}
