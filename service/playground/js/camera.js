/** The camera: a stream of it, and a button that takes a photo. */

import { button } from "./controls.js";
import { announce, clear, h } from "./dom.js";
import { UserError } from "./errors.js";
import { blobOf, scaledCanvas } from "./image_files.js";
import { latest, pause } from "./scheduling.js";

const PHOTO_SIDE = 1280;
const PHOTO_QUALITY = 0.92;

/** Whether the browser gives a camera at all: it does so to secure contexts only, https or a loopback address. */
export const mayHaveCamera = () => Boolean(navigator.mediaDevices?.getUserMedia);

/**
 * A stream of the camera. Throws UserError.
 *
 * @param {MediaTrackConstraints} video
 */
export async function openCamera(video) {
  if (!mayHaveCamera()) throw new UserError("Browsers allow the camera only on https pages and on this computer's own.");
  try {
    return await navigator.mediaDevices.getUserMedia({ video, audio: false });
  } catch (error) {
    throw new UserError(`The camera could not be opened: ${error instanceof Error ? error.message || error.name : error}.`);
  }
}

/** @param {MediaStream | null} stream */
export function closeCamera(stream) {
  for (const track of stream?.getTracks() ?? []) track.stop();
}

/**
 * A button that opens the camera in `stage` to take a photo; null where the browser gives no camera.
 *
 * @param {object} options
 * @param {HTMLElement} options.stage
 * @param {(blob: Blob, name: string) => void} options.onPhoto
 * @param {ReturnType<typeof import("./errors.js").errorBox>} options.errors
 * @param {AbortSignal} options.signal
 */
export function cameraButton({ stage, onPhoto, errors, signal }) {
  if (!mayHaveCamera()) return null;
  const opening = latest({ signal });
  /** @type {MediaStream | null} */
  let stream = null;
  const toggle = button("Camera", () => (stream ? close() : open()));
  signal.addEventListener("abort", close);

  async function open() {
    try {
      const opened = await opening.run(async (newer) => {
        const given = await openCamera({ facingMode: "environment" });
        if (newer.aborted) closeCamera(given); // closed, or opened again, while the browser asked for permission
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
    const shoot = button("Take photo", () => photograph(video), { kind: "primary" });
    clear(stage).append(video, shoot, button("Close", close));
    stage.hidden = false;
    toggle.setAttribute("aria-pressed", "true");
    shoot.focus();
  }

  /** @param {HTMLVideoElement} video */
  async function photograph(video) {
    while (video.videoWidth === 0 && stream) await pause(30, signal); // the first frame is still to come
    if (!stream) return;
    const size = { width: video.videoWidth, height: video.videoHeight, maxSide: PHOTO_SIDE };
    const blob = await blobOf(scaledCanvas(video, size), "image/jpeg", PHOTO_QUALITY);
    close();
    announce("Photo taken");
    onPhoto(blob, "photo.jpg");
  }

  function close() {
    opening.cancel();
    closeCamera(stream);
    stream = null;
    clear(stage).hidden = true;
    toggle.setAttribute("aria-pressed", "false");
  }

  return { element: toggle, close };
}
