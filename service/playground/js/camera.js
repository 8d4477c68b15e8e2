/** The camera: asked for, let go of, and told in plain words where there is none. */

/** No camera, and why; a person's or a computer's affair, no fault of the page. */
export class CameraError extends Error {}

/** Whether the browser gives a camera at all; it does to secure contexts only: https, or a loopback address. */
export const mayHaveCamera = () => Boolean(navigator.mediaDevices?.getUserMedia);

/** A stream of a camera, with what is wanted of its video. Throws CameraError. */
export async function openCamera(video) {
  if (!mayHaveCamera()) {
    throw new CameraError("The browser gives a camera only to pages from https or from this computer.");
  }
  try {
    return await navigator.mediaDevices.getUserMedia({ video, audio: false });
  } catch (error) {
    throw new CameraError(`The browser gave no camera: ${error.message || error.name}.`);
  }
}

/** Let go of a stream; of none where there is none. */
export function closeCamera(stream) {
  for (const track of stream?.getTracks() ?? []) track.stop();
}
