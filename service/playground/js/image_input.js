/** Takes an image: dropped, pasted, chosen, photographed, or one of the samples. The service judges whether it is one. */

import { request } from "./api.js";
import { cameraButton } from "./camera.js";
import { h, uniqueId } from "./dom.js";
import { errorBox, UserError } from "./errors.js";
import { latest } from "./scheduling.js";

/** @import { Manifest, SampleImage } from "./types.d.ts" */

const ACCEPTED = "image/png,image/jpeg,image/webp";

// The sample images that come with the page, by what they show. Their origins: samples/README.md.
/** @type {Record<string, string[]>} */
const SAMPLES = {
  mnist: ["seven.png", "two.png", "four.png", "nine.png", "zero_on_paper.jpg"],
  "fashion-mnist": ["ankle_boot.png", "pullover.png", "trouser.png", "shirt.png", "ankle_boot_on_paper.jpg"],
  cifar10: ["airplane.jpg", "bird.jpg", "dog.jpg", "frog.jpg", "ship.jpg", "truck.jpg"],
  photos: ["cat.jpg", "coffee.jpg", "astronaut.jpg", "rocket.jpg"],
};

/**
 * The samples of a folder.
 *
 * @param {string} folder
 * @returns {SampleImage[]}
 */
export function samplesOf(folder) {
  return SAMPLES[folder].map((name) => ({ name, url: `/playground/samples/${folder}/${name}` }));
}

// Samples whose files are not named as their labels are.
/** @type {Partial<Record<string, string>>} */
const DIGITS = { zero: "0", two: "2", four: "4", seven: "7", nine: "9" };

/**
 * The folder of samples that show what a model's labels name; null where none does.
 *
 * @param {Pick<Manifest, "labels">} manifest
 */
export function sampleFolder({ labels }) {
  const known = new Set((labels ?? []).map((label) => label.toLowerCase().replaceAll("_", " ")));
  const shows = (/** @type {string} */ name) => {
    const word = name.replace(/(_on_paper)?\.\w+$/, "").replaceAll("_", " ");
    return known.has(word) || known.has(DIGITS[word] ?? word);
  };
  return Object.keys(SAMPLES).find((folder) => SAMPLES[folder].every(shows)) ?? null;
}

/**
 * Samples for a classifier: of what it tells apart, where there are such; else photographs, for one that sees colours.
 *
 * @param {Pick<Manifest, "labels">} manifest
 * @param {boolean} isGrey
 */
export function samplesForClassifier(manifest, isGrey) {
  const folder = sampleFolder(manifest) ?? (isGrey ? null : "photos");
  return folder ? samplesOf(folder) : [];
}

/**
 * The input: `onImage` gets each image, also one that is `set`. `stop` closes the camera and gives up a sample that is
 * still loading; `signal` does so for good.
 *
 * @param {object} options
 * @param {SampleImage[]} options.samples
 * @param {(blob: Blob, name: string) => unknown} options.onImage
 * @param {string} options.label
 * @param {AbortSignal} options.signal
 */
export function imageInput({ samples, onImage, label, signal }) {
  const id = uniqueId("image");
  const chosen = h("p", { class: "muted image-name", "aria-live": "polite" });
  const file = h("input", { type: "file", id, accept: ACCEPTED, class: "visually-hidden", on: { change: chosenFile } });
  const stage = h("div", { class: "camera", hidden: true });
  const errors = errorBox();
  const camera = cameraButton({ stage, onPhoto: set, errors, signal });
  const picking = latest({ signal });
  const zone = h(
    "div",
    { class: "drop", on: { dragover: over, dragenter: over, dragleave: leave, drop: dropped } },
    file,
    h("label", { for: id, class: "button" }, "Choose a file"),
    camera?.element,
    h("span", { class: "muted" }, "or drop or paste one here"),
  );
  const thumbnails = samples.map((sample) => thumbnail(sample, pick));
  document.addEventListener("paste", pasted, { signal });

  /** @param {Blob} blob @param {string} name */
  function set(blob, name) {
    picking.cancel(); // a sample that is still loading is superseded
    errors.hide();
    chosen.textContent = name;
    samples.forEach((sample, index) => thumbnails[index].setAttribute("aria-pressed", String(sample.name === name)));
    onImage(blob, name);
  }

  function chosenFile() {
    take(file.files);
    file.value = ""; // so that the same file can be chosen again
  }

  /** @param {FileList | null | undefined} files */
  function take(files) {
    const all = [...(files ?? [])];
    const image = all.find((one) => one.type.startsWith("image/"));
    if (image) set(image, image.name);
    else if (all.length) errors.show(new UserError(`${all[0].name} is not an image. Give a PNG, a JPEG or a WebP file.`));
  }

  /** @param {SampleImage} sample */
  async function pick(sample) {
    try {
      const blob = await picking.run(async (newer) => (await request(sample.url, { signal: newer })).blob());
      if (blob) set(blob, sample.name);
    } catch (error) {
      errors.show(error);
    }
  }

  function stop() {
    picking.cancel();
    camera?.close();
  }

  /** @param {DragEvent} event */
  function over(event) {
    event.preventDefault();
    zone.classList.add("over");
  }

  function leave() {
    zone.classList.remove("over");
  }

  /** @param {DragEvent} event */
  function dropped(event) {
    event.preventDefault();
    leave();
    take(event.dataTransfer?.files);
  }

  /** @param {ClipboardEvent} event */
  function pasted(event) {
    // A document that no longer holds this input is another page.
    if (zone.isConnected && event.clipboardData?.files.length) take(event.clipboardData.files);
  }

  const gallery = h("ul", { class: "samples", "aria-label": "Samples" }, thumbnails.map((one) => h("li", {}, one)));
  const element = h("div", { class: "image-input", role: "group", "aria-label": label }, zone, errors.element, stage, chosen, gallery);
  return { element, set, pick, stop };
}

/** @param {SampleImage} sample @param {(sample: SampleImage) => void} pick */
function thumbnail(sample, pick) {
  const image = h("img", { src: sample.url, alt: `Sample: ${sample.name}`, loading: "lazy", width: 56, height: 56 });
  return h("button", { type: "button", class: "sample", title: sample.name, "aria-pressed": "false", on: { click: () => pick(sample) } }, image);
}
