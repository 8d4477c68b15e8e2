/** The page of any network: a form made of its inputs, its answer, and the request as a program. */

import { json, modelCard, request } from "../api.js";
import { button, select } from "../controls.js";
import { h, useStyle } from "../dom.js";
import { UserError } from "../errors.js";
import { timingText } from "../format.js";
import { panel } from "../panel.js";
import { latest } from "../scheduling.js";
import { addressOf, isUsable, pageOf, takesTensors, tensorsAddress } from "../tasks.js";
import { answerView } from "../tensors/answer_view.js";
import { codePanel } from "../tensors/code_panel.js";
import { inputField } from "../tensors/input_field.js";
import { inferRequest, outputsOf } from "../tensors/request.js";

/** @import { InferRequest, Metadata, ModelCard, ModelEntry, PageContext } from "../types.d.ts" */
/** @typedef {{name: string, model: ModelEntry, hasPage: boolean}} Callable `name` is the protocol's; `hasPage` where another page tries it */

export const title = "Tensors";

const STEP_MILLISECONDS = 120;

/** @param {HTMLElement} root @param {PageContext} context */
export default async function page(root, { model: wanted, models, signal }) {
  const all = await callables(models, signal);
  const chosen = chosenOf(all, wanted);
  if (chosen.hasPage && !takesTensors(chosen.model)) {
    location.replace(addressOf(chosen.model));
    return;
  }
  /** @type {[Metadata, ModelCard, void]} */
  const [metadata, card] = await Promise.all([
    json(`/v2/models/${encodeURIComponent(chosen.name)}`, undefined, { signal }),
    modelCard(chosen.model.id, { signal }),
    useStyle("tensors"),
  ]);
  if (signal.aborted) return;

  const work = latest({ signal });
  const step = latest({ debounce: STEP_MILLISECONDS, signal });
  const inputs = metadata.inputs.map((spec) => inputField(spec, { onChange: () => step.run(follow), onPicture: sendIfComplete, signal }));
  const code = codePanel(chosen.name);
  const view = answerView({ labels: card.manifest.labels ?? null });
  const fillAll = (/** @type {boolean} */ isRandom) => output.guard(async () => {
    for (const input of inputs) input.fill(isRandom);
    await send();
  });
  const actions = h(
    "div",
    { class: "row" },
    button("Send", () => {}, { kind: "primary", type: "submit" }),
    inputs.length ? [button("Try random values", () => fillAll(true)), button("Try zeros", () => fillAll(false))] : null,
  );
  // The page judges what was typed itself, and names what is wrong.
  const form = h("form", { class: "stack", noValidate: true, on: { submit: submitted } }, inputs.map(({ element }) => element), actions);
  const given = panel({ title: "Inputs", hint: inputs.length ? "" : "This network takes none." }, form);
  const output = panel({ title: "Outputs", answer: [view.element] }, view.element);
  const codeCard = h("section", { class: "card", "aria-label": "The request in code" }, h("h2", {}, "The same in code"), code.element);
  root.append(headOf(chosen, all, card), h("div", { class: "layout" }, given.element, h("div", { class: "stack" }, output.element, codeCard)));
  follow();

  /** @returns {InferRequest} */
  function read() {
    const filled = inputs.map((input) => attempt(input.read));
    for (const one of filled) if (one.error) throw one.error;
    return inferRequest(metadata, filled.flatMap(({ value }) => value ?? []));
  }

  /** Keep the code in step with the form. */
  function follow() {
    try {
      const next = read();
      code.show(next);
      return next;
    } catch (error) {
      if (!(error instanceof UserError)) throw error;
      code.wait(error);
      return null;
    }
  }

  /** @param {SubmitEvent} event */
  function submitted(event) {
    event.preventDefault();
    output.guard(send);
  }

  function sendIfComplete() {
    if (follow()) output.guard(send);
  }

  async function send() {
    const next = read();
    code.show(next);
    const answer = await work.run(async (newer) => {
      const response = await request(next.path, { headers: next.headers, body: next.body, signal: newer });
      return { timing: timingText(response), outputs: await outputsOf(response) };
    });
    if (answer) view.show(answer.outputs, answer.timing);
  }
}

/**
 * What a function returns, or the error for the user that it throws; every input says what it lacks, not only the first.
 *
 * @template Value
 * @param {() => Value} work
 * @returns {{value?: Value, error?: UserError}}
 */
function attempt(work) {
  try {
    return { value: work() };
  } catch (error) {
    if (error instanceof UserError) return { error };
    throw error;
  }
}

/**
 * What can be called: every graph by its name in the protocol, the users' own models first.
 *
 * @param {ModelEntry[]} models
 * @param {AbortSignal} signal
 * @returns {Promise<Callable[]>}
 */
async function callables(models, signal) {
  const { model_stats: statistics } = await json("/v2/models/stats", undefined, { signal });
  const names = new Set(/** @type {{name: string}[]} */ (statistics).map(({ name }) => name));
  const found = [...names].flatMap((name) => {
    const owners = models.filter((model) => isUsable(model) && (name === model.id || name.startsWith(`${model.id}.`)));
    const [owner] = owners.sort((a, b) => b.id.length - a.id.length);
    return owner ? [{ name, model: owner, hasPage: name === owner.id && pageOf(owner) !== undefined }] : [];
  });
  const rank = (/** @type {Callable} */ { hasPage, model }) => (pageOf(model) ? 1 : 0) + (hasPage ? 1 : 0);
  return found.sort((a, b) => rank(a) - rank(b));
}

/** @param {Callable[]} all @param {string | undefined} wanted */
function chosenOf(all, wanted) {
  const chosen = wanted ? (all.find(({ name }) => name === wanted) ?? all.find(({ model }) => model.id === wanted)) : all[0];
  if (!chosen) {
    const has = all.map(({ name }) => name).join(", ");
    throw new UserError(wanted ? `This page has no model "${wanted}"; it has ${has}.` : "No model is ready yet.");
  }
  return chosen;
}

/** @param {Callable} chosen @param {Callable[]} all @param {ModelCard} card */
function headOf(chosen, all, { manifest }) {
  const groupOf = (/** @type {Callable} */ { hasPage, model }) => (hasPage ? "With a page of their own" : pageOf(model) ? "Graphs of other models" : "Networks");
  const options = all.map((one) => ({ value: one.name, label: one.name, group: groupOf(one) }));
  const choice = select({ label: "Model", options, value: chosen.name, onInput: open });
  choice.element.classList.add("model-choice");
  const own = pageOf(chosen.model);
  const link = own ? [" ", h("a", { href: addressOf(chosen.model) }, `${chosen.model.id} has a page of its own: ${own.verb}.`)] : null;
  const head = h("div", { class: "page-head" }, h("h1", {}, `Call ${chosen.name}`), h("p", {}, manifest.description, link));

  /** @param {string} name */
  function open(name) {
    const one = all.find((each) => each.name === name);
    location.hash = one?.hasPage ? addressOf(one.model) : tensorsAddress(name);
  }

  return h("header", { class: "row spread" }, head, all.length > 1 ? choice.element : null);
}
