/** Seeds: one that is drawn, and one that a person wrote. */

const NUM_SEEDS = 1e6; // so few that one is short enough to be read out

/** A seed by chance. */
export const anySeed = () => Math.floor(Math.random() * NUM_SEEDS);

/** What is no seed is sent as it is: the service says what would be one. */
export function seedOf(text) {
  const number = Number(text);
  return text.trim() !== "" && Number.isSafeInteger(number) ? number : text;
}
