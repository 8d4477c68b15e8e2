/** Shows files as pictures, loaded before they are seen, and lets go of the ones before. */

import { h } from "../dom.js";

/** `load(before, after, newer)` gives two loaded `<img>` of two Blobs, unless the signal `newer` aborts. */
export function pictures({ signal }) {
  let shown = [];
  signal.addEventListener("abort", () => release(shown));

  async function load(before, after, newer) {
    const fresh = [before, after].map((blob) => URL.createObjectURL(blob));
    const images = [h("img", { src: fresh[0], alt: "The photograph" }), h("img", { src: fresh[1], alt: "The painting" })];
    try {
      await Promise.all(images.map((image) => image.decode()));
      newer.throwIfAborted();
    } catch (error) {
      release(fresh);
      throw error;
    }
    release(shown);
    shown = fresh;
    return images;
  }

  return { load };
}

function release(addresses) {
  for (const address of addresses) URL.revokeObjectURL(address);
}
