/** The panel of interpolation: the service's walk from one pinned image to another, and the same as an animation. */

import { request as send } from "../api.js";
import { button, select, setOptions, slider, statusLine } from "../controls.js";
import { h } from "../dom.js";
import { blobUrl, pngUrl } from "../image_files.js";
import { panel } from "../panel.js";
import { latest } from "../scheduling.js";
import { letter } from "./pins.js";

/** @import { Control, Option, SeededImage } from "../types.d.ts" */
/** @import { Shared } from "./generator.js" */

const MIN_FRAMES = 24; // of an animation

/** @param {Shared} shared */
export function interpolationPanel({ generator, noise, pins, signal }) {
  const from = select({ label: "From", options: [], onInput: () => draw() });
  const to = select({ label: "To", options: [], onInput: () => draw() });
  const steps = slider({ label: "Steps", min: 2, max: 24, step: 1, value: 9, onInput: () => draw() });
  const path = select({
    label: "Path",
    options: [
      { value: "spherical", label: "equal angles" },
      { value: "linear", label: "straight" },
    ],
    onInput: () => draw(),
  });
  const strip = h("ol", { class: "walk-strip", "aria-label": "Images of the walk" });
  const animate = button("Animate", () => card.guard(() => animating.run(play)));
  const moving = h("figure", { class: "strip-moving", hidden: true });
  const status = statusLine();
  const card = panel(
    { title: "Interpolation", kind: "draw-strip", answer: [strip, moving] },
    h("div", { class: "strip-controls" }, from.element, to.element, path.element, steps.element, animate),
    strip,
    moving,
    status.element,
  );
  const newest = latest({ debounce: 60, signal });
  const animating = latest({ signal });
  const address = blobUrl(signal);

  function refill() {
    const options = pins.all.map((pin, index) => ({ value: keyOf(pin), label: `${letter(index)} ${generator.nameOf(pin)}` }));
    offer(from, options, 0);
    offer(to, options, 1);
    return draw();
  }

  /** The request; null while fewer than two images are pinned. */
  function body() {
    const ends = [from, to].flatMap((end) => pins.all.find((pin) => keyOf(pin) === end.value) ?? []);
    if (ends.length < 2) return null;
    const labels = generator.labels.length ? { label: ends.map(({ label }) => label) } : {};
    return { seeds: ends.map(({ seed }) => seed), ...labels, steps: steps.value, path: path.value, ...noise() };
  }

  function draw() {
    const sent = body();
    animate.disabled = sent === null;
    moving.hidden = true;
    animating.cancel();
    if (!sent) {
      strip.replaceChildren();
      newest.cancel();
      status.say("Pin two images to walk from one to the other.");
      return undefined;
    }
    return card.guard(() =>
      newest.run(async (newer) => {
        const { answer, request } = await generator.post("interpolate", sent, newer);
        if (newer.aborted) return;
        card.show(request);
        status.say("");
        const labels = answer.images.map(({ label }) => label);
        strip.replaceChildren(...answer.images.map(({ image }, at) => step(image, labels[at], at, labels[at] !== labels[at - 1])));
      }),
    );
  }

  /** @param {string} image @param {string | undefined} label @param {number} index @param {boolean} isChange */
  function step(image, label, index, isChange) {
    const words = `Step ${index + 1}${label ? `, ${label}` : ""}`;
    const caption = label && isChange ? h("span", { class: "walk-caption", "aria-hidden": "true" }, label) : null;
    return h("li", {}, h("img", { src: pngUrl(image), alt: words, title: words, width: 64, height: 64 }), caption);
  }

  /** @param {AbortSignal} newer */
  async function play(newer) {
    const sent = { ...body(), format: "webp", steps: Math.max(MIN_FRAMES, steps.value) };
    const where = generator.path("interpolate");
    const response = await send(where, { body: sent, signal: newer, accept: "image/webp" });
    const blob = await response.blob();
    if (newer.aborted) return;
    const url = address.of(blob);
    const name = `${generator.name}-walk.webp`;
    card.show({ path: where, body: sent, output: name });
    const save = h("a", { class: "button small", href: url, download: name }, "Download");
    moving.replaceChildren(h("img", { src: url, alt: "The walk there and back, as an animation", width: 112, height: 112 }), save);
    moving.hidden = false;
  }

  pins.addEventListener("change", refill);
  return { element: card.element };
}

/** @param {SeededImage} image */
const keyOf = ({ seed, label }) => `${label}/${seed}`;

/**
 * Replace the options of a list; what was chosen stays chosen where it can.
 *
 * @param {Control<string, HTMLSelectElement>} control
 * @param {Option[]} options
 * @param {number} index the option that is chosen otherwise
 */
function offer(control, options, index) {
  const chosen = control.value;
  const isStill = options.some(({ value }) => value === chosen);
  setOptions(control.input, options);
  control.set(isStill ? chosen : ((options[index] ?? options[0])?.value ?? ""));
}
