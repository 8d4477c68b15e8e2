/** The webcam: its switch, and the loop that stylises a frame at a time, as fast as the service answers. */

import { closeCamera, openCamera } from "../camera.js";
import { select, toggle } from "../controls.js";
import { context2d, h } from "../dom.js";
import { milliseconds } from "../format.js";
import { blobOf, scaledCanvas } from "../image_files.js";
import { pause } from "../scheduling.js";

const SIZES = [
  { value: "192", label: "192 pixels: most frames" },
  { value: "320", label: "320 pixels" },
  { value: "480", label: "480 pixels" },
];
const RATE_WINDOW_MILLISECONDS = 2000;
const RETRY_MILLISECONDS = 1000;
// The service works on one while the other is encoded, sent and decoded.
const NUM_IN_FLIGHT = 2;
const JPEG_QUALITY = 0.85;

/** @typedef {{video: HTMLVideoElement, canvas: HTMLCanvasElement}} Views */
/** @typedef {(blob: Blob, signal: AbortSignal) => Promise<Blob | undefined>} Paint */

/**
 * The switch: it opens and closes the camera. `paint` returns a stylised frame, or nothing where the service refused;
 * `onFrame` gets the views and the frame rate in words, `onError` why the webcam stopped.
 *
 * @param {object} options
 * @param {Paint} options.paint
 * @param {() => void} options.onStart
 * @param {(views: Views, rate: string) => void} options.onFrame
 * @param {() => void} options.onStop
 * @param {(error: unknown) => void} options.onError
 * @param {AbortSignal} options.signal
 */
export function webcam({ paint, onStart, onFrame, onStop, onError, signal: outer }) {
  /** @type {AbortController | null} */
  let controller = null;
  const size = select({ label: "Frames", options: SIZES, value: "320" });
  const onOff = toggle({ label: "Webcam", onInput: (isOn) => (isOn ? start() : stop()) });
  size.element.hidden = true;
  outer.addEventListener("abort", close);

  async function start() {
    const mine = new AbortController();
    controller = mine;
    /** @type {MediaStream | null} */
    let stream = null;
    try {
      stream = await openCamera({ width: 640, height: 480 });
      if (mine.signal.aborted) return;
      size.element.hidden = false;
      onStart();
      await stylizeFrames({ stream, longestSide: () => Number(size.value), paint, onFrame, signal: mine.signal });
    } catch (error) {
      if (mine.signal.aborted) return;
      end();
      onError(error);
    } finally {
      closeCamera(stream);
    }
  }

  function close() {
    controller?.abort();
    controller = null;
  }

  function stop() {
    if (!controller) return;
    end();
    onStop();
  }

  function end() {
    close();
    onOff.set(false);
    size.element.hidden = true;
  }

  return {
    element: h("div", { class: "live" }, onOff.element, size.element),
    get isOn() {
      return controller !== null;
    },
    stop,
  };
}

/**
 * Run until the signal aborts. After a refusal the next frame waits a second; a hidden tab sends none.
 *
 * @param {object} options
 * @param {MediaStream} options.stream
 * @param {() => number} options.longestSide
 * @param {Paint} options.paint
 * @param {(views: Views, rate: string) => void} options.onFrame
 * @param {AbortSignal} options.signal
 */
async function stylizeFrames({ stream, longestSide, paint, onFrame, signal }) {
  const video = h("video", { muted: true, playsInline: true, srcObject: stream, "aria-label": "The webcam" });
  const canvas = h("canvas", { role: "img", "aria-label": "The webcam, painted" });
  /** @type {number[]} */
  const finished = [];
  let numTaken = 0;
  let latestShown = 0;
  await video.play();
  await Promise.all(Array.from({ length: NUM_IN_FLIGHT }, follow));

  async function follow() {
    const frame = h("canvas");
    while (!signal.aborted) {
      await untilVisible(signal);
      numTaken += 1;
      const number = numTaken;
      const began = performance.now();
      const size = { width: video.videoWidth, height: video.videoHeight, maxSide: longestSide() };
      const blob = await blobOf(scaledCanvas(video, size, frame), "image/jpeg", JPEG_QUALITY);
      const painted = await paint(blob, signal);
      if (painted) show(number, await createImageBitmap(painted), began);
      else await pause(RETRY_MILLISECONDS, signal);
    }
  }

  /** @param {number} number @param {ImageBitmap} bitmap @param {number} began */
  function show(number, bitmap, began) {
    // A frame that was overtaken is dropped: it would set time back.
    if (!signal.aborted && number > latestShown) {
      latestShown = number;
      draw(bitmap, canvas);
      const now = performance.now();
      onFrame({ video, canvas }, `${rateAt(now).toFixed(1)} frames per second, ${milliseconds(now - began)} a frame`);
    }
    bitmap.close();
  }

  /** @param {number} now */
  function rateAt(now) {
    finished.push(now);
    while (finished[0] < now - RATE_WINDOW_MILLISECONDS) finished.shift();
    return finished.length > 1 ? ((finished.length - 1) * 1000) / (now - finished[0]) : 0;
  }
}

/** @param {ImageBitmap} bitmap @param {HTMLCanvasElement} canvas */
function draw(bitmap, canvas) {
  if (canvas.width !== bitmap.width || canvas.height !== bitmap.height) {
    canvas.width = bitmap.width;
    canvas.height = bitmap.height;
  }
  context2d(canvas).drawImage(bitmap, 0, 0);
}

/** @param {AbortSignal} signal @returns {Promise<void>} */
function untilVisible(signal) {
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
