/** The panel of samples: images by label, each with a seed; a click pins one. */

import { linked } from "../address.js";
import { parseSeed, randomSeed } from "../api.js";
import { button, field, select } from "../controls.js";
import { announce, clear, closest, h } from "../dom.js";
import { pngUrl } from "../image_files.js";
import { panel } from "../panel.js";
import { latest } from "../scheduling.js";

/** @import { GeneratedImage, SeededImage } from "../types.d.ts" */
/** @import { Shared } from "./generator.js" */
/** @typedef {{element: HTMLButtonElement, img: HTMLImageElement, image: SeededImage}} Cell */

const NUM_ROWS = 10;
const MAX_IMAGES = 256;
const NUM_ROWS_OF_ONE_LABEL = 6;
const FIRST_SEED = 1;
// Pinned at the start, by row and column, so that there is something to walk between.
const FIRST_PINS = [[7, 0], [9, 1], [3, 2], [0, 3]];
const FIRST_PINS_OF_FEW = [[0, 0], [1, 1], [2, 2], [3, 3]];

/** @param {Shared} shared */
export function samplesPanel({ generator, noise, pins, signal }) {
  const isWide = matchMedia("(min-width: 1100px)").matches;
  const seed = field({ label: "First seed", value: String(FIRST_SEED), inputMode: "numeric", onInput: () => draw() });
  const labels = [{ value: "", label: "every label" }, ...generator.labels.map((label, index) => ({ value: String(index), label }))];
  const label = select({ label: "Label", options: labels, onInput: () => draw() });
  const columns = select({ label: "Columns", options: ["4", "6", "8", "10"], value: isWide ? "8" : "4", onInput: () => draw() });
  const fresh = button("New seeds", reseed, { kind: "primary" });
  const grid = h("div", {
    class: "samples-grid",
    role: "group",
    "aria-label": "Samples",
    "aria-describedby": "samples-keys",
    on: { keydown: pressed, focusin: describe, pointerover: describe },
  });
  const description = h("p", { class: "samples-description muted", "aria-hidden": "true" });
  const card = panel(
    { title: "Samples", kind: "draw-samples", answer: [grid, description] },
    h("div", { class: "samples-controls" }, generator.labels.length ? label.element : null, columns.element, seed.element, fresh),
    h("p", { class: "panel-hint", id: "samples-keys" }, "A click pins an image; pinned ones stay when the seeds change. Arrow keys move among them."),
    grid,
    description,
  );
  const newest = latest({ debounce: 80, signal });
  /** @type {Cell[]} */
  let cells = [];

  const keep = linked({ seed, label, columns });

  function draw() {
    return card.guard(() =>
      newest.run(async (newer) => {
        const numColumns = Number(columns.value);
        const all = labelsOfCells(numColumns);
        const labelled = generator.labels.length ? { label: label.value === "" ? all : Number(label.value) } : {};
        const body = { num_images: all.length, seed: parseSeed(seed.value), ...noise(), ...labelled };
        const { answer, request } = await generator.post("generate", body, newer);
        if (newer.aborted) return;
        card.show(request);
        render(answer.images, numColumns);
      }),
    );
  }

  function reseed() {
    seed.set(String(randomSeed()));
    keep();
    return draw();
  }

  /** @param {number} numColumns */
  function labelsOfCells(numColumns) {
    const one = label.value === "" ? null : Number(label.value);
    const isByLabel = one === null && generator.labels.length > 0;
    const numRows = isByLabel ? Math.min(generator.labels.length, Math.floor(MAX_IMAGES / numColumns)) : NUM_ROWS_OF_ONE_LABEL;
    return Array.from({ length: numRows * numColumns }, (_, at) => one ?? Math.floor(at / numColumns));
  }

  /** @param {GeneratedImage[]} images @param {number} numColumns */
  function render(images, numColumns) {
    const isFirst = cells.length === 0;
    const isSameShape = cells.length === images.length && grid.dataset.label === label.value;
    const before = isSameShape ? cells : [];
    const focused = Math.max(0, cells.findIndex(({ element }) => element.tabIndex === 0));
    grid.dataset.label = label.value;
    cells = images.map((image, at) => {
      const kept = before[at]?.image;
      return cell(kept && pins.has(kept) ? kept : { seed: image.seed, label: image.index ?? null, url: pngUrl(image.image) }, at);
    });
    clear(grid).style.setProperty("--columns", String(numColumns));
    const isNamed = generator.labels.length > 0 && label.value === "";
    grid.classList.toggle("is-named", isNamed);
    cells.forEach(({ element, image }, at) => {
      if (isNamed && at % numColumns === 0) grid.append(h("span", { class: "samples-name" }, generator.labelName(image.label)));
      grid.append(element);
    });
    (cells[focused] ?? cells[0]).element.tabIndex = 0;
    if (isFirst) pinFirst(numColumns);
  }

  /** @param {SeededImage} image @param {number} at @returns {Cell} */
  function cell(image, at) {
    const img = h("img", { src: image.url, alt: "", width: 28, height: 28 });
    const element = h(
      "button",
      {
        type: "button",
        class: "sample-cell",
        tabindex: -1,
        dataset: { at },
        "aria-label": generator.nameOf(image),
        "aria-pressed": String(pins.has(image)),
        on: { click: () => togglePin(image) },
      },
      img,
    );
    return { element, img, image };
  }

  /** @param {SeededImage} image */
  function togglePin(image) {
    pins.toggle(image);
    announce(`${generator.nameOf(image)}, ${pins.has(image) ? "pinned" : "unpinned"}.`);
  }

  /** @param {number} numColumns */
  function pinFirst(numColumns) {
    const places = generator.labels.length >= NUM_ROWS ? FIRST_PINS : FIRST_PINS_OF_FEW;
    pins.replace(places.flatMap(([row, column]) => cells[row * numColumns + column]?.image ?? []));
  }

  pins.addEventListener("change", () => {
    for (const { element, img, image } of cells) {
      const pin = pins.find(image);
      element.setAttribute("aria-pressed", String(pin !== undefined));
      if (pin && pin.url !== image.url) img.src = image.url = pin.url; // drawn again, with other noise
    }
  });

  /** @param {Event} event */
  function describe(event) {
    const at = closest(event, "[data-at]")?.dataset.at;
    if (at === undefined) return;
    const { image } = cells[Number(at)];
    description.textContent = `${generator.labelName(image.label)} · seed ${image.seed}${pins.has(image) ? " · pinned" : ""}`;
  }

  /** @param {KeyboardEvent} event */
  function pressed(event) {
    const from = cells[Number(closest(event, "[data-at]")?.dataset.at)];
    const numColumns = Number(grid.style.getPropertyValue("--columns"));
    /** @type {Partial<Record<string, number>>} */
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: numColumns, ArrowUp: -numColumns };
    const to = cells[cells.indexOf(from) + (steps[event.key] ?? NaN)];
    if (!from || !to) return;
    event.preventDefault();
    from.element.tabIndex = -1;
    to.element.tabIndex = 0;
    to.element.focus();
  }

  return { element: card.element, draw };
}
