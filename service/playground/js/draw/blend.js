/** Latents between four corners. The arithmetic of the plane; the service's own walks join two ends. */

const DIGITS = 4;

/** The weights of the corners A (left top), B (right top), C (left bottom) and D at a place. */
export function cornerWeights(x, y) {
  return [(1 - x) * (1 - y), x * (1 - y), (1 - x) * y, x * y];
}

/**
 * The latent at a place: the weighted sum, brought to the length that the corners have there. Without that it would be
 * too short in the middle, where a generator has seen nothing. A corner is its latent as it is: rounded, a pixel could
 * differ by a level from the picture that was pinned.
 */
export function blended(latents, weights) {
  const reached = weights.indexOf(1);
  if (reached >= 0) return latents[reached];
  const sum = latents[0].map((_, at) => latents.reduce((total, latent, corner) => total + weights[corner] * latent[at], 0));
  const wanted = latents.reduce((total, latent, corner) => total + weights[corner] * length(latent), 0);
  const scale = wanted / Math.max(length(sum), 1e-9);
  return sum.map((value) => Number((value * scale).toFixed(DIGITS)));
}

/** Which corner is nearest. */
export const nearest = (weights) => weights.indexOf(Math.max(...weights));

const length = (latent) => Math.hypot(...latent);
