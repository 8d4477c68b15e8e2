/** The pictures that are kept: each is a seed and a label, which draw it again. Panels are told when they change. */

const MOST = 8;

/** Pins in the order in which they were set. */
export class Pins extends EventTarget {
  #pins = [];

  get all() {
    return this.#pins;
  }

  has({ seed, label }) {
    return this.#pins.some((pin) => pin.seed === seed && pin.label === label);
  }

  /** Pin a picture, or let it go; of too many the oldest goes. */
  toggle(picture) {
    if (this.has(picture)) this.#pins = this.#pins.filter((pin) => !isSame(pin, picture));
    else this.#pins = [...this.#pins, picture].slice(-MOST);
    this.#tell();
  }

  /** Replace all of them, as when the noise has changed and each looks different. */
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
