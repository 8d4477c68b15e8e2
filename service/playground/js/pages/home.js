/** The first page: the models that this service serves, each with its card in short and its load right now. */

import { json, modelPath, randomSeed } from "../api.js";
import { button } from "../controls.js";
import { curlPanel } from "../curl.js";
import { clear, h, useStyle } from "../dom.js";
import { errorBox } from "../errors.js";
import { seconds } from "../format.js";
import { modelRow } from "../home/model_row.js";
import { pngUrl } from "../image_files.js";
import { pick, poll } from "../metrics.js";
import { latest } from "../scheduling.js";
import { addressOf, distinct, isUsable, modelsOf, networksOf, TASKS } from "../tasks.js";

/** @import { GeneratedImage, ModelEntry, PageContext, Scrape } from "../types.d.ts" */

const POLL_SECONDS = 2;
const NUM_IMAGES = 10;
const MAX_LINKS = 4;

export const title = "Models";

/** @param {HTMLElement} root @param {PageContext} context */
export default async function page(root, { models, signal, reload }) {
  await useStyle("home");
  if (signal.aborted) return;
  const errors = errorBox();
  const served = distinct(models);
  const sections = TASKS.map((task) => section(task.title, served.filter((model) => model.task === task.task), signal));
  const others = networksOf(served);
  sections.push(section(others.length < served.length ? "More models" : "Networks", others, signal));
  const rows = sections.flatMap((one) => one.rows);
  const generator = modelsOf(models, "image-generation")[0];
  const shown = generator ? samplesStrip(generator, signal) : null;
  root.append(hero(served, shown), errors.element, ...sections.filter((one) => one.rows.length).map((one) => one.element));
  shown?.draw();

  /** @param {Scrape} now @param {Scrape | null} before */
  function onScrape(now, before) {
    errors.hide();
    if (before && statesOf(now) !== statesOf(before)) return reload();
    for (const row of rows) row.observe(now, before);
    return undefined;
  }

  poll({ seconds: POLL_SECONDS, onScrape, onError: errors.show, signal });
  await Promise.all(rows.map((row) => row.fill())).catch((error) => {
    if (!signal.aborted) errors.show(error);
  });
}

/**
 * The state of every model version, to see that one was loaded, failed or went away.
 *
 * @param {Scrape} scrape
 */
function statesOf({ samples }) {
  const states = pick(samples, "hotplate_model_state").filter(({ value }) => value === 1);
  return states.map(({ labels }) => `${labels.model} ${labels.version} ${labels.state}`).join();
}

/** @param {ModelEntry[]} served @param {ReturnType<typeof samplesStrip> | null} shown */
function hero(served, shown) {
  const numReady = served.filter(isUsable).length;
  const sentences = ["No model is ready yet.", "One model runs here. Try it."];
  const present = TASKS.filter(({ task }) => modelsOf(served, task).length > 0);
  const networks = networksOf(served).filter(isUsable);
  const links = [
    ...present.map((task) => ({ text: task.title, href: addressOf(modelsOf(served, task.task)[0]) })),
    ...(present.some(({ takesPictures }) => takesPictures) ? [{ text: "One picture, every model", href: "#/picture" }] : []),
    ...networks.slice(0, MAX_LINKS).map((model) => ({ text: `Try ${model.id}`, href: addressOf(model) })),
  ];
  const invitations = [...present.map(({ invitation }) => invitation), ...(networks.length ? ["give a network its inputs"] : [])].join(", ");
  return h(
    "section",
    { class: "hero", "aria-labelledby": "hero-title" },
    h(
      "div",
      { class: "stack" },
      h("h1", { id: "hero-title" }, sentences[numReady] ?? `${numReady} models run here. Try each of them.`),
      h(
        "p",
        { class: "hero-text" },
        invitations ? `${invitations[0].toUpperCase()}${invitations.slice(1)}. ` : "",
        "This service answers, in batches with whatever other requests arrive at that moment, and every panel shows its request as a curl command.",
      ),
      h("div", { class: "row" }, links.map(({ text, href }, index) => h("a", { class: index === 0 ? "button primary" : "button", href }, text))),
    ),
    shown?.element,
  );
}

/** @param {string} heading @param {ModelEntry[]} models @param {AbortSignal} signal */
function section(heading, models, signal) {
  const rows = models.map((model) => modelRow(model, signal));
  const element = h("section", { class: "models" }, h("h2", {}, heading), h("ul", { class: "stack" }, rows.map((row) => row.element)));
  return { element, rows };
}

/**
 * Ten images that a generator of this service draws on opening, with a button for ten more: the proof that it runs.
 *
 * @param {ModelEntry} model
 * @param {AbortSignal} signal
 */
function samplesStrip(model, signal) {
  const list = h("ul", { class: "strip-images", "aria-label": `Images by ${model.id}` });
  const status = h("p", { class: "muted strip-status" }, "Drawing …");
  const errors = errorBox();
  const curl = curlPanel();
  const work = latest({ signal });
  for (let index = 0; index < NUM_IMAGES; index += 1) list.append(h("li", { class: "strip-empty" }));

  async function draw() {
    const path = modelPath(model.id, "generate");
    const body = { num_images: NUM_IMAGES, seed: randomSeed() };
    const began = performance.now();
    try {
      /** @type {{images: GeneratedImage[]} | undefined} */
      const answer = await work.run((newer) => json(path, body, { signal: newer }));
      if (!answer) return;
      clear(list).append(...answer.images.map(sample));
      status.textContent = `Drawn just now by ${model.id} from ten random seeds, in ${seconds((performance.now() - began) / 1000)}.`;
      curl.show({ path, body });
      errors.hide();
    } catch (error) {
      errors.show(error);
    }
  }

  const element = h(
    "div",
    { class: "strip" },
    list,
    h("div", { class: "row spread" }, status, button("Draw ten more", draw, { kind: "small" })),
    errors.element,
    curl.element,
  );
  return { element, draw };
}

/** @param {GeneratedImage} image */
function sample({ image, label, seed }) {
  const words = label ? `${label}, seed ${seed}` : `seed ${seed}`;
  return h("li", {}, h("img", { src: pngUrl(image), alt: words, title: words, width: 84, height: 84 }));
}
