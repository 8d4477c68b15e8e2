/** The pictures that are kept: each is a seed and a label, which draw it again. Panels are told when they change. */

const MOST = 8;

/** Pins in the order in which they were set. */
export class Pins extends EventTarget {
  #pins = [];

  get all() {
    return this.#pins;
  }

  /** The pin of a picture, which may look different since; undefined where it is not pinned. */
  find(picture) {
    return this.#pins.find((pin) => isSame(pin, picture));
  }

  has(picture) {
    return this.find(picture) !== undefined;
  }

  /** Pin a picture, or let it go; of too many the oldest goes. */
  toggle(picture) {
    if (this.has(picture)) this.#pins = this.#pins.filter((pin) => !isSame(pin, picture));
    else this.#pins = [...this.#pins, picture].slice(-MOST);
    this.#tell();
  }

  /** Take what is still pinned as it looks now that the noise has changed. */
  redraw(pictures) {
    this.replace(this.#pins.map((pin) => pictures.find((picture) => isSame(picture, pin)) ?? pin));
  }

  /** Replace all of them. */
  replace(pictures) {
    this.#pins = pictures;
    this.#tell();
  }

  #tell() {
    this.dispatchEvent(new Event("change"));
  }
}

const isSame = (one, other) => one.seed === other.seed && one.label === other.label;

/** A pin's letter: the first four are the corners of the plane. */
export const letter = (index) => String.fromCharCode(65 + index);
