/** The panel of the interpolation strip: the service's walk from one pinned picture to another, and as an animation. */

import { request as send } from "../api.js";
import { button, latest, select, slider, statusLine } from "../controls.js";
import { h } from "../dom.js";
import { panel } from "../panel.js";
import { blobUrl, pngUrl } from "../picture_files.js";
import { letter } from "./pins.js";

const FRAMES = 24; // of an animation, at least

export function stripPanel({ generator, noise, pins, signal }) {
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
  const strip = h("ol", { class: "walk-strip", "aria-label": "Pictures of the walk" });
  const animate = button("Animate", () => card.guard(() => animating.run(play)));
  const moving = h("figure", { class: "strip-moving", hidden: true });
  const status = statusLine();
  const card = panel(
    { title: "From one to another", kind: "draw-strip" },
    h("div", { class: "strip-controls" }, from.element, to.element, path.element, steps.element, animate),
    strip,
    moving,
    status.element,
  );
  const newest = latest({ debounce: 60, signal });
  const animating = latest({ signal });
  const address = blobUrl(signal);

  function refill() {
    const options = pins.all.map((pin, index) => ({ value: key(pin), label: `${letter(index)} ${generator.labelName(pin.label)}, seed ${pin.seed}` }));
    keep(from, options, 0);
    keep(to, options, 1);
    return draw();
  }

  function body(format) {
    const ends = [from, to].map((end) => pins.all.find((pin) => key(pin) === end.value));
    if (ends.includes(undefined)) return null;
    const labels = generator.labels.length ? { label: ends.map(({ label }) => label) } : {};
    return { seeds: ends.map(({ seed }) => seed), ...labels, steps: steps.value, path: path.value, ...noise(), ...format };
  }

  function draw() {
    const wanted = body({});
    animate.disabled = wanted === null;
    moving.hidden = true;
    animating.cancel();
    if (!wanted) {
      strip.replaceChildren();
      newest.cancel();
      status.say("Pin two pictures to walk from one to the other.");
      return undefined;
    }
    return card.guard(() =>
      newest.run(async (newer) => {
        const { answer, request } = await generator.post("interpolate", wanted, newer);
        if (newer.aborted) return;
        card.show(request);
        status.say("");
        const labels = answer.images.map(({ label }) => label);
        strip.replaceChildren(...answer.images.map(({ image }, at) => step(image, labels[at], at, labels[at] !== labels[at - 1])));
      }),
    );
  }

  function step(image, label, index, isChange) {
    const words = `Step ${index + 1}${label ? `, ${label}` : ""}`;
    const caption = label && isChange ? h("span", { class: "walk-caption", "aria-hidden": "true" }, label) : null;
    return h("li", {}, h("img", { src: pngUrl(image), alt: words, title: words, width: 64, height: 64 }), caption);
  }

  async function play(newer) {
    const wanted = { ...body({ format: "webp" }), steps: Math.max(FRAMES, steps.value) };
    const where = generator.path("interpolate");
    const response = await send(where, { body: wanted, signal: newer, accept: "image/webp" });
    const blob = await response.blob();
    if (newer.aborted) return;
    const url = address.of(blob);
    const name = `${generator.name}-walk.webp`;
    card.show({ path: where, body: wanted, output: name });
    const save = h("a", { class: "button small", href: url, download: name }, "Download");
    moving.replaceChildren(h("img", { src: url, alt: "The walk there and back, as an animation", width: 112, height: 112 }), save);
    moving.hidden = false;
  }

  pins.addEventListener("change", refill);
  return { element: card.element, draw };
}

const key = ({ seed, label }) => `${label}/${seed}`;

/** Offer other options; what was chosen stays chosen where it can. */
function keep(control, options, index) {
  const chosen = control.value;
  control.input.replaceChildren(...options.map(({ value, label }) => h("option", { value }, label)));
  const still = options.some(({ value }) => value === chosen);
  control.set(still ? chosen : (options[index] ?? options[0])?.value ?? "");
}
