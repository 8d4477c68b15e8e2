/** The camera: asked for, let go of, and told in plain words where there is none. */

import { ToldError } from "./told_error.js";

/** Whether the browser gives a camera at all; it does to secure contexts only: https, or a loopback address. */
export const mayHaveCamera = () => Boolean(navigator.mediaDevices?.getUserMedia);

/** A stream of a camera, with what is wanted of its video. Throws ToldError. */
export async function openCamera(video) {
  if (!mayHaveCamera()) {
    throw new ToldError("The browser gives a camera only to pages from https or from this computer.");
  }
  try {
    return await navigator.mediaDevices.getUserMedia({ video, audio: false });
  } catch (error) {
    throw new ToldError(`The browser gave no camera: ${error.message || error.name}.`);
  }
}

/** Let go of a stream; of none where there is none. */
export function closeCamera(stream) {
  for (const track of stream?.getTracks() ?? []) track.stop();
}
