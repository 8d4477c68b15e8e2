/** Takes a picture: dropped, pasted, chosen, photographed, or one of the samples. It hands on a Blob and judges nothing. */

import { request } from "./api.js";
import { closeCamera, mayHaveCamera, openCamera } from "./camera.js";
import { button, errorBox, latest, pause } from "./controls.js";
import { announce, clear, h, uniqueId } from "./dom.js";
import { blobOf, copied } from "./picture_files.js";

const ACCEPTED = "image/png,image/jpeg,image/webp";
const PHOTO_SIDE = 1280;
const PHOTO_QUALITY = 0.92;

/**
 * `{element, set(blob, name), pick(sample), stop()}`; `onPicture(blob, name)` hears of each picture, also of one that is
 * `set`. `stop` closes the camera and gives up a sample that is still to come; `signal` does so for good.
 */
export function pictureInput({ samples = [], camera = true, onPicture, label = "Picture", signal }) {
  const id = uniqueId("picture");
  const chosen = h("p", { class: "muted picture-name", "aria-live": "polite" });
  const file = h("input", { type: "file", id, accept: ACCEPTED, class: "visually-hidden", on: { change: () => take(file.files) } });
  const stage = h("div", { class: "camera", hidden: true });
  const errors = errorBox();
  const photo = cameraButton({ isWanted: camera, stage, onPhoto: set, errors, signal });
  const picking = latest({ signal });
  const zone = h(
    "div",
    { class: "drop", on: { dragover: over, dragenter: over, dragleave: leave, drop: dropped } },
    file,
    h("label", { for: id, class: "button" }, "Choose a file"),
    photo.element,
    h("span", { class: "muted" }, "or drop or paste one here"),
  );
  const thumbnails = samples.length ? gallery(samples, pick) : null;
  document.addEventListener("paste", pasted, { signal });

  function set(blob, name = "picture.png") {
    picking.cancel(); // a sample that is still to come is wanted no more
    errors.hide();
    chosen.textContent = name;
    for (const sample of thumbnails?.children ?? []) sample.firstChild.setAttribute("aria-pressed", String(sample.dataset.name === name));
    onPicture(blob, name);
  }

  function take(files) {
    const picture = [...files].find((one) => one.type.startsWith("image/"));
    if (picture) set(picture, picture.name);
    else if (files.length) chosen.textContent = `${files[0].name} is not a picture.`;
    file.value = ""; // so that the same file can be chosen again
  }

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
    photo.stop();
  }

  function over(event) {
    event.preventDefault();
    zone.classList.add("over");
  }

  function leave() {
    zone.classList.remove("over");
  }

  function dropped(event) {
    event.preventDefault();
    leave();
    take(event.dataTransfer.files);
  }

  function pasted(event) {
    // A document that no longer holds this input is another page.
    if (zone.isConnected && event.clipboardData?.files.length) take(event.clipboardData.files);
  }

  const element = h("div", { class: "picture-input", role: "group", "aria-label": label }, zone, stage, chosen, errors.element, thumbnails);
  return { element, set, pick, stop };
}

function gallery(samples, pick) {
  const thumbnail = (sample) =>
    h(
      "li",
      { dataset: { name: sample.name } },
      h(
        "button",
        { type: "button", class: "sample", title: sample.name, "aria-pressed": "false", on: { click: () => pick(sample) } },
        h("img", { src: sample.url, alt: `Sample: ${sample.name}`, loading: "lazy", width: 56, height: 56 }),
      ),
    );
  return h("ul", { class: "samples", "aria-label": "Samples" }, samples.map(thumbnail));
}

function cameraButton({ isWanted, stage, onPhoto, errors, signal }) {
  if (!isWanted || !mayHaveCamera()) return { element: null, stop() {} };
  const opening = latest({ signal });
  let stream = null;
  const open = button("Camera", () => (stream ? stop() : start()));
  signal?.addEventListener("abort", stop);

  async function start() {
    try {
      const opened = await opening.run(async (newer) => {
        const given = await openCamera({ facingMode: "environment" });
        if (newer.aborted) closeCamera(given); // stopped, or asked for again, while the browser asked its user
        return given;
      });
      if (!opened) return;
      stream = opened;
      errors.hide();
      show();
    } catch (error) {
      errors.show(error);
    }
  }

  function show() {
    const video = h("video", { autoplay: true, muted: true, playsInline: true, srcObject: stream, "aria-label": "Camera" });
    const shoot = button("Take the picture", () => photograph(video), { kind: "primary" });
    clear(stage).append(video, shoot, button("Close", stop));
    stage.hidden = false;
    open.setAttribute("aria-pressed", "true");
    shoot.focus();
  }

  async function photograph(video) {
    while (video.videoWidth === 0 && stream) await pause(30, signal); // the first frame is still to come
    if (!stream) return;
    const size = { width: video.videoWidth, height: video.videoHeight, maxSide: PHOTO_SIDE };
    const blob = await blobOf(copied(video, size), "image/jpeg", PHOTO_QUALITY);
    stop();
    announce("Picture taken");
    onPhoto(blob, "photo.jpg");
  }

  function stop() {
    opening.cancel();
    closeCamera(stream);
    stream = null;
    clear(stage).hidden = true;
    open.setAttribute("aria-pressed", "false");
  }

  return { element: open, stop };
}
