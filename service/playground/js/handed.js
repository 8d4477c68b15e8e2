/** A picture that one page hands to another; it stays in this tab's memory. */

/** @import { NamedBlob } from "./types.d.ts" */

/** @type {NamedBlob | null} */
let picture = null;

/** @param {Blob} blob @param {string} name */
export function hand(blob, name) {
  picture = { blob, name };
}

/** The picture that was handed over last; null where none was. */
export const handed = () => picture;
