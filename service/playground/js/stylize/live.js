/** The switch of the webcam: it opens and closes the camera, chooses the size of frames and tells how many pass. */

import { closeCamera, openCamera } from "../camera.js";
import { select, toggle } from "../controls.js";
import { h } from "../dom.js";
import { milliseconds } from "../timing.js";
import { runWebcam } from "./webcam.js";

const SIZES = [
  { value: "192", label: "192 pixels: most frames" },
  { value: "320", label: "320 pixels" },
  { value: "480", label: "480 pixels" },
];

/**
 * `{element, isOn, stop()}`; `paint(blob, signal)` gives a painted frame, `onFrame({video, canvas, text})` shows it,
 * `onStart()` and `onEnd()` tell when it begins and when it is switched off, `onError(error)` that it stopped, and why.
 */
export function liveView({ paint, onStart, onFrame, onEnd, onError, signal: outer }) {
  let controller = null;
  const size = select({ label: "Frames", options: SIZES, value: "320" });
  const onOff = toggle({ label: "Webcam", onInput: (isOn) => (isOn ? start() : stop()) });
  size.element.hidden = true;
  outer.addEventListener("abort", close);

  async function start() {
    const mine = new AbortController();
    controller = mine;
    let stream = null;
    try {
      stream = await openCamera({ width: 640, height: 480 });
      if (mine.signal.aborted) return;
      size.element.hidden = false;
      onStart();
      const longestSide = () => Number(size.value);
      await runWebcam({ stream, longestSide, paint, onFrame: (frame) => onFrame({ ...frame, text: told(frame) }), signal: mine.signal });
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
    onEnd();
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

function told({ rate, milliseconds: each }) {
  return `${rate.toFixed(1)} frames per second, ${milliseconds(each)} a frame`;
}
