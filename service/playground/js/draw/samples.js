/** The panel of samples: pictures by label, each with a seed, which a click pins. */

import { button, field, latest, select } from "../controls.js";
import { announce, clear, h } from "../dom.js";
import { panel } from "../panel.js";
import { pngUrl } from "../picture_files.js";
import { anySeed, seedOf } from "../seeds.js";

const NUM_ROWS = 10;
const MOST_IMAGES = 256;
const ROWS_OF_ONE_KIND = 6;
const FIRST_SEED = 1;
// Pinned at the start, so that there is something to walk between: row and column.
const FIRST_PINS = [[7, 0], [9, 1], [3, 2], [0, 3]];

/** `noise()` gives the members of a request that say how pictures are drawn. */
export function samplesPanel({ generator, noise, pins, signal }) {
  const isWide = matchMedia("(min-width: 1100px)").matches;
  const seed = field({ label: "First seed", value: String(FIRST_SEED), inputMode: "numeric", onInput: () => draw() });
  const kinds = [{ value: "", label: "every kind" }, ...generator.labels.map((label, index) => ({ value: String(index), label }))];
  const kind = select({ label: "Kind", options: kinds, onInput: () => draw() });
  const columns = select({ label: "Columns", options: ["4", "6", "8", "10"], value: isWide ? "8" : "4", onInput: () => draw() });
  const fresh = button("New seeds", () => {
    seed.set(String(anySeed()));
    return draw();
  }, { kind: "primary" });
  const grid = h("div", {
    class: "samples-grid",
    role: "group",
    "aria-label": "Samples",
    "aria-describedby": "samples-keys",
    on: { keydown: pressed, focusin: named, pointerover: named },
  });
  const told = h("p", { class: "samples-told muted", "aria-hidden": "true" });
  const card = panel(
    { title: "Samples", kind: "draw-samples" },
    h("div", { class: "samples-controls" }, generator.labels.length ? kind.element : null, columns.element, seed.element, fresh),
    h("p", { class: "panel-hint", id: "samples-keys" }, "A click pins a picture; pinned ones stay when there are new seeds. Arrow keys move among them."),
    grid,
    told,
  );

  const newest = latest({ debounce: 80, signal });
  let cells = [];

  function draw() {
    return card.guard(() =>
      newest.run(async (newer) => {
        const numColumns = Number(columns.value);
        const labels = wantedLabels(numColumns);
        const body = { num_images: labels.length, seed: seedOf(seed.value), ...noise() };
        if (generator.labels.length) body.label = kind.value === "" ? labels : Number(kind.value);
        const { answer, request } = await generator.post("generate", body, newer);
        if (newer.aborted) return;
        card.show(request);
        render(answer.images, numColumns);
      }),
    );
  }

  function wantedLabels(numColumns) {
    const one = kind.value === "" ? null : Number(kind.value);
    const isByLabel = one === null && generator.labels.length > 0;
    const numRows = isByLabel ? Math.min(generator.labels.length, Math.floor(MOST_IMAGES / numColumns)) : ROWS_OF_ONE_KIND;
    return Array.from({ length: numRows * numColumns }, (_, at) => one ?? Math.floor(at / numColumns));
  }

  function render(images, numColumns) {
    const isFirst = cells.length === 0;
    const kept = new Map(cells.map((cell, at) => [at, cell.picture]).filter(([, picture]) => pins.has(picture)));
    const isSameShape = cells.length === images.length && grid.dataset.kind === kind.value;
    grid.dataset.kind = kind.value;
    const focused = Math.max(0, cells.findIndex(({ element }) => element.tabIndex === 0));
    cells = images.map((image, at) => cell((isSameShape && kept.get(at)) || picture(image), at));
    clear(grid).style.setProperty("--columns", numColumns);
    const isNamed = generator.labels.length > 0 && kind.value === "";
    grid.classList.toggle("is-named", isNamed);
    cells.forEach(({ element, picture }, at) => {
      if (isNamed && at % numColumns === 0) grid.append(h("span", { class: "samples-name" }, generator.labelName(picture.label)));
      grid.append(element);
    });
    (cells[focused] ?? cells[0]).element.tabIndex = 0;
    if (isFirst) pinFirst(numColumns);
  }

  const picture = ({ seed, index = null, image }) => ({ seed, label: index, url: pngUrl(image) });

  function cell(picture, at) {
    const image = h("img", { src: picture.url, alt: "", width: 28, height: 28 });
    const element = h(
      "button",
      {
        type: "button",
        class: "sample-cell",
        tabindex: -1,
        dataset: { at },
        "aria-label": `${generator.labelName(picture.label)}, seed ${picture.seed}`,
        "aria-pressed": String(pins.has(picture)),
        on: { click: () => pin(picture) },
      },
      image,
    );
    return { element, image, picture };
  }

  function pin(picture) {
    pins.toggle(picture);
    announce(`${generator.labelName(picture.label)}, seed ${picture.seed}, ${pins.has(picture) ? "pinned" : "let go"}.`);
  }

  function pinFirst(numColumns) {
    const places = generator.labels.length >= NUM_ROWS ? FIRST_PINS : [[0, 0], [1, 1], [2, 2], [3, 3]];
    pins.replace(places.map(([row, column]) => cells[row * numColumns + column]?.picture).filter(Boolean));
  }

  pins.addEventListener("change", () => {
    for (const { element, image, picture } of cells) {
      const pin = pins.find(picture);
      element.setAttribute("aria-pressed", String(pin !== undefined));
      if (pin && pin.url !== picture.url) image.src = picture.url = pin.url; // drawn again, with other noise
    }
  });

  function named(event) {
    const at = event.target.closest("[data-at]")?.dataset.at;
    if (at === undefined) return;
    const { picture } = cells[at];
    told.textContent = `${generator.labelName(picture.label)} · seed ${picture.seed}${pins.has(picture) ? " · pinned" : ""}`;
  }

  function pressed(event) {
    const at = Number(event.target.dataset.at);
    const numColumns = Number(grid.style.getPropertyValue("--columns"));
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: numColumns, ArrowUp: -numColumns };
    const next = cells[at + steps[event.key]];
    if (!next) return;
    event.preventDefault();
    event.target.tabIndex = -1;
    next.element.tabIndex = 0;
    next.element.focus();
  }

  return { element: card.element, draw };
}
