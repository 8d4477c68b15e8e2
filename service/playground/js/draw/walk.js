/** The panel of the latent walk: four pictures at the corners of a plane, and between them whatever the finger is over. */

import { latest, statusLine } from "../controls.js";
import { announce, h } from "../dom.js";
import { paced } from "../pacing.js";
import { panel } from "../panel.js";
import { pngUrl } from "../picture_files.js";
import { blended, cornerWeights, nearest } from "./blend.js";
import { letter } from "./pins.js";
import { plane } from "./plane.js";

const NUM_CORNERS = 4;
const MAP_COLUMNS = 10;
const FRAME_MS = 16;
const SPEAK_MS = 700;

/** Corners are the first four pins, and where there are fewer, pictures of the seeds 101 to 104. */
export function walkPanel({ generator, noise, pins, signal }) {
  const square = plane({ label: "Latent plane", describedBy: "walk-keys", onMove: () => following.touch() });
  const large = h("img", { class: "walk-large", alt: "", width: 196, height: 196, hidden: true });
  const status = statusLine();
  const weightsList = h("ul", { class: "walk-weights" });
  const card = panel(
    { title: "Latent walk", kind: "draw-walk" },
    h("p", { class: "panel-hint", id: "walk-keys" }, "Drag over the plane, or use the arrow keys (with Shift in leaps). The corners are the first four pinned pictures."),
    h("div", { class: "walk-columns" }, square.element, h("div", { class: "walk-side" }, large, weightsList, status.element)),
  );
  const cornering = latest({ debounce: 60, signal });
  const speaking = latest({ debounce: SPEAK_MS, signal });
  const moving = latest({ signal });
  const following = paced(show, { milliseconds: FRAME_MS, signal });
  let corners = [];

  /** Fetch the corners' latents anew, and paint the ground between them. */
  function settle() {
    return card.guard(() =>
      cornering.run(async (newer) => {
        const wanted = Array.from({ length: NUM_CORNERS }, (_, index) => pins.all[index] ?? spare(index));
        const found = await Promise.all(wanted.map((corner) => generator.one(corner, noise(), newer)));
        if (newer.aborted) return;
        corners = found.map(({ picture }) => picture);
        const ground = Array.from({ length: MAP_COLUMNS ** 2 }, (_, at) => ({
          x: ((at % MAP_COLUMNS) + 0.5) / MAP_COLUMNS,
          y: (Math.floor(at / MAP_COLUMNS) + 0.5) / MAP_COLUMNS,
        }));
        const { answer } = await generator.post("decode", wish(ground), newer);
        if (newer.aborted) return;
        await square.paint(answer.images.map(({ image }) => pngUrl(image)), MAP_COLUMNS);
        const { x, y } = square.at();
        square.go(x, y);
      }),
    );
  }

  const spare = (index) => ({ seed: 101 + index, label: generator.labels.length ? (index * 2 + 1) % generator.labels.length : null });

  /** The body that decodes some places. */
  function wish(places) {
    const weights = places.map(({ x, y }) => cornerWeights(x, y));
    const latents = corners.map(({ latent }) => latent);
    const body = { latents: weights.map((some) => blended(latents, some)) };
    if (!generator.decoderTakesLabel) return body;
    const labels = weights.map((some) => corners[nearest(some)].label);
    return { ...body, label: labels.length === 1 ? labels[0] : labels };
  }

  /** Show the picture of the place where the finger is now. */
  function show() {
    return card.guard(async () => {
      if (!corners.length) return true;
      const place = square.at();
      const started = performance.now();
      const drawn = await moving.run((newer) => generator.post("decode", wish([place]), newer));
      if (drawn) tell(place, drawn, performance.now() - started);
      return drawn !== undefined;
    });
  }

  function tell(place, { answer, request }, milliseconds) {
    const words = described(place);
    const url = pngUrl(answer.images[0].image);
    square.show(url, words);
    large.src = url;
    large.alt = words;
    large.hidden = false;
    status.say(`Drawn in ${milliseconds.toFixed(0)} ms, there and back.`);
    card.show(request);
    tellWeights(place);
    speaking.run(async () => document.activeElement === square.element && announce(words));
  }

  function tellWeights({ x, y }) {
    const weights = cornerWeights(x, y);
    const best = nearest(weights);
    const rows = corners.map((corner, index) => {
      const bar = h("span", { class: "walk-fill" });
      bar.style.width = `${weights[index] * 100}%`;
      const kind = index === best ? "walk-weight is-nearest" : "walk-weight";
      const name = `${letter(index)} ${generator.labelName(corner.label)}`;
      return h("li", { class: kind }, h("span", {}, name), h("span", { class: "walk-bar" }, bar), h("span", {}, `${Math.round(weights[index] * 100)} %`));
    });
    weightsList.replaceChildren(...rows);
  }

  function described({ x, y }) {
    const parts = cornerWeights(x, y)
      .map((weight, index) => ({ weight, name: `${letter(index)}, ${generator.labelName(corners[index].label)}` }))
      .filter(({ weight }) => weight >= 0.05)
      .sort((a, b) => b.weight - a.weight);
    return parts.map(({ weight, name }) => `${Math.round(weight * 100)} % ${name}`).join("; ");
  }

  pins.addEventListener("change", settle);
  return { element: card.element, settle };
}
