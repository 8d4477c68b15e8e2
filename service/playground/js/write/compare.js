/** The panel in which two models write on from the same text, side by side. */

import { card as modelCard, modelPath } from "../api.js";
import { button, select, statusLine } from "../controls.js";
import { curlPanel } from "../curl.js";
import { announce, h } from "../dom.js";
import { panel } from "../panel.js";
import { fitting } from "./reading.js";
import { outcomeText, streamText } from "./streaming.js";

/** `names` are the text generators; `text()` is what they write on from. */
export function comparePanel({ model, names, settings, text, signal }) {
  const columns = [model, names.find((name) => name !== model)].map((name) => column(name, names, signal));
  const run = button("Write both", () => card.guard(write), { kind: "primary" });
  const stop = button("Stop both", () => running?.abort(), { disabled: true });
  const card = panel(
    {
      title: "Side by side",
      hint: "Both go on from the text above, at the same time and with the same settings.",
      kind: "write-compare",
    },
    h("div", { class: "write-actions" }, run, stop),
    h("div", { class: "compare-columns" }, columns.map((one) => one.element)),
  );
  let running = null;
  signal.addEventListener("abort", () => running?.abort());

  async function write() {
    if (running) return;
    running = new AbortController();
    setRunning(true);
    try {
      const prompt = text().trimEnd();
      const values = settings.values();
      const names = columns.map((one) => one.name()).join(" and ");
      await Promise.all(columns.map((one) => one.write(prompt, values, running.signal)));
      if (!signal.aborted) announce(`${names} are done.`);
    } finally {
      running.abort(); // where one has failed, the other need not go on
      running = null;
      setRunning(false);
    }
  }

  function setRunning(isRunning) {
    run.disabled = isRunning;
    stop.disabled = !isRunning;
  }

  return { element: card.element };
}

function column(initial, names, signal) {
  const kind = h("p", { class: "muted compare-kind" });
  const prompt = h("span", { class: "compare-prompt" });
  const written = h("span", { class: "compare-written" }, h("span", { class: "compare-none" }, "Nothing written yet."));
  const status = statusLine();
  const curl = curlPanel();
  const speed = h("span", { class: "compare-speed" }, "–");
  const choice = select({ label: "Model", options: names, value: initial, onInput: () => describe().catch(() => {}) });
  const output = h("p", { class: "compare-text", tabindex: 0, role: "region" }, prompt, written);
  const element = h(
    "article",
    { class: "compare-column" },
    h("div", { class: "compare-head" }, choice.element, h("p", { class: "compare-rate" }, speed, " tokens/s")),
    kind,
    output,
    status.element,
    curl.element,
  );

  async function describe() {
    const name = choice.value;
    output.setAttribute("aria-label", `Text by ${name}`);
    const { manifest } = await modelCard(name, { signal });
    if (name === choice.value) kind.textContent = kindText(manifest);
    return manifest;
  }

  async function write(text, values, stopped) {
    const name = choice.value;
    const { context } = (await describe()).language;
    const body = { prompt: await fitting(name, text, context - values.max_tokens - 1, stopped), ...values };
    prompt.textContent = text;
    written.textContent = "";
    status.say("");
    curl.show({ path: modelPath(name, "generate"), body: { ...body, stream: true }, stream: true });
    const outcome = await streamText(name, body, { signal: stopped, onPiece });
    speed.textContent = outcome.tokensPerSecond.toFixed(0);
    status.say(outcomeText(outcome));
  }

  function onPiece(text, { tokensPerSecond }) {
    written.textContent += text;
    speed.textContent = tokensPerSecond.toFixed(0);
    output.scrollTop = output.scrollHeight;
  }

  describe().catch(() => {}); // without it the column lacks a caption; what is wrong is told when it writes
  return { element, write, name: () => choice.value };
}

/** What kind of network it is, how large, and how well it foresees a text that it never saw. */
export function kindText(manifest) {
  const parts = ["attention" in manifest.graphs ? "Transformer" : manifest.language.states.some(({ name }) => name === "c") ? "LSTM" : "recurrent network"];
  const numParameters = manifest.training?.parameters;
  if (numParameters) parts.push(`${(numParameters / 1e6).toFixed(1)} M parameters`);
  const score = manifest.evaluation?.find(({ metric, split }) => metric === "bits_per_byte" && split === "test");
  if (score) parts.push(`${score.value.toFixed(3)} bits a byte on unseen novels`);
  return parts.join(" · ");
}
