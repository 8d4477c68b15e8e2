/** Takes a picture: dropped, pasted, chosen, photographed, or one of the samples. It hands on a Blob and judges nothing. */

import { button, pause } from "./controls.js";
import { announce, clear, h, uniqueId } from "./dom.js";

const ACCEPTED = "image/png,image/jpeg,image/webp";

/**
 * `{element, set(blob, name), stop()}`; `onPicture(blob, name)` hears of each picture, also of one that is `set`.
 * `signal` ends the camera and listening for pasted pictures.
 */
export function pictureInput({ samples = [], camera = true, onPicture, label = "Picture", signal }) {
  const id = uniqueId("picture");
  const chosen = h("p", { class: "muted picture-name", "aria-live": "polite" });
  const file = h("input", { type: "file", id, accept: ACCEPTED, class: "visually-hidden", on: { change: () => take(file.files) } });
  const stage = h("div", { class: "camera", hidden: true });
  const photo = cameraButton(camera, stage, set, signal, chosen);
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
      const response = await fetch(sample.url, { signal });
      if (!response.ok) throw new Error(String(response.status));
      set(await response.blob(), sample.name);
    } catch {
      if (!signal?.aborted) chosen.textContent = `The sample ${sample.name} could not be loaded.`;
    }
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

  const element = h("div", { class: "picture-input", role: "group", "aria-label": label }, zone, stage, chosen, thumbnails);
  return { element, set, stop: photo.stop };
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

function cameraButton(isWanted, stage, set, signal, told) {
  // Browsers give a camera to secure contexts only: https, or a loopback address.
  if (!isWanted || !navigator.mediaDevices?.getUserMedia) return { element: null, stop() {} };
  let stream = null;

  const open = button("Camera", async () => {
    if (stream) return stop();
    try {
      stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" }, audio: false });
    } catch (error) {
      told.textContent = `There is no camera to use (${error.name}).`;
      return undefined;
    }
    if (signal?.aborted) return stop();
    return show();
  });
  signal?.addEventListener("abort", () => stop());

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
    const blob = await frame(video, "image/jpeg");
    stop();
    announce("Picture taken");
    set(blob, "photo.jpg");
  }

  function stop() {
    for (const track of stream?.getTracks() ?? []) track.stop();
    stream = null;
    clear(stage).hidden = true;
    open.setAttribute("aria-pressed", "false");
  }

  return { element: open, stop };
}

/** The current frame of a video as a Blob, at most `maxSide` pixels on its longer side. */
export async function frame(video, type = "image/jpeg", maxSide = 1280) {
  const scale = Math.min(1, maxSide / Math.max(video.videoWidth, video.videoHeight));
  const canvas = h("canvas");
  canvas.width = Math.round(video.videoWidth * scale);
  canvas.height = Math.round(video.videoHeight * scale);
  canvas.getContext("2d").drawImage(video, 0, 0, canvas.width, canvas.height);
  return new Promise((resolve) => {
    canvas.toBlob(resolve, type, 0.92);
  });
}
