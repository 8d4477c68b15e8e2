/** Paints what a webcam sees, a frame at a time, as fast as the service answers. */

import { pause } from "../controls.js";
import { h } from "../dom.js";
import { blobOf, copied } from "../picture_files.js";

const WINDOW_MILLISECONDS = 2000;
const TROUBLE_MILLISECONDS = 1000;
// One is painted while the other is written, sent and read.
const FRAMES_IN_FLIGHT = 2;
const JPEG_QUALITY = 0.85;

/**
 * Run until the signal aborts: `paint(blob, signal)` gives the painted frame as a Blob, or nothing where the service refused
 * (then the next is tried a second later), `longestSide()` the wanted size, `onFrame({video, canvas, rate, milliseconds})`
 * hears of each frame. Frames wait while nobody looks.
 */
export async function runWebcam({ stream, longestSide, paint, onFrame, signal }) {
  const video = h("video", { muted: true, playsInline: true, srcObject: stream, "aria-label": "The webcam" });
  const canvas = h("canvas", { role: "img", "aria-label": "The webcam, painted" });
  const finished = [];
  let taken = 0;
  let shown = 0;
  await video.play();
  await Promise.all(Array.from({ length: FRAMES_IN_FLIGHT }, follow));

  async function follow() {
    const frame = h("canvas", {});
    while (!signal.aborted) {
      await visible(signal);
      taken += 1;
      const number = taken;
      const started = performance.now();
      const size = { width: video.videoWidth, height: video.videoHeight, maxSide: longestSide() };
      const blob = await blobOf(copied(video, size, frame), "image/jpeg", JPEG_QUALITY);
      const painted = await paint(blob, signal);
      if (!painted) await pause(TROUBLE_MILLISECONDS, signal);
      else lay(number, await createImageBitmap(painted), started);
    }
  }

  function lay(number, bitmap, started) {
    // One that was overtaken would set time back.
    if (!signal.aborted && number > shown) {
      shown = number;
      draw(bitmap, canvas);
      onFrame({ video, canvas, rate: rateAt(performance.now()), milliseconds: performance.now() - started });
    }
    bitmap.close();
  }

  function rateAt(now) {
    finished.push(now);
    while (finished[0] < now - WINDOW_MILLISECONDS) finished.shift();
    return finished.length > 1 ? ((finished.length - 1) * 1000) / (now - finished[0]) : 0;
  }
}

function draw(bitmap, canvas) {
  if (canvas.width !== bitmap.width || canvas.height !== bitmap.height) {
    canvas.width = bitmap.width;
    canvas.height = bitmap.height;
  }
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
}

function visible(signal) {
  if (!document.hidden) return Promise.resolve();
  return new Promise((resolve) => {
    const done = () => {
      document.removeEventListener("visibilitychange", done);
      signal.removeEventListener("abort", done);
      resolve();
    };
    document.addEventListener("visibilitychange", done);
    signal.addEventListener("abort", done);
  });
}
