/** Shows files as pictures, loaded before they are seen, and lets go of the ones before. */

import { h } from "../dom.js";

/** `show(before, after)` gives two loaded `<img>` of two Blobs. */
export function pictures({ signal }) {
  let addresses = [];
  signal.addEventListener("abort", forget);

  function forget() {
    for (const address of addresses) URL.revokeObjectURL(address);
    addresses = [];
  }

  async function show(before, after) {
    const fresh = [before, after].map((blob) => URL.createObjectURL(blob));
    const images = [h("img", { src: fresh[0], alt: "The photograph" }), h("img", { src: fresh[1], alt: "The painting" })];
    await Promise.all(images.map((image) => image.decode()));
    forget();
    addresses = fresh;
    return images;
  }

  return { show };
}
