/** The requests of a burst: what is sent to a model of each task, and how many at once. */

import { modelPath, request } from "../api.js";
import { context2d, h } from "../dom.js";
import { serverTiming } from "../format.js";
import { blobOf } from "../image_files.js";
import { isUsable } from "../tasks.js";

/** @import { Burst, CurlRequest, ModelEntry, Outcome } from "../types.d.ts" */

const NUM_DISTINCT = 24;
const NUM_TOKENS = 16;
const IMAGE_SIDE = 32;

/**
 * What is sent to a model of one task: `prepare` once, `make` each request, `curl` the same for people.
 *
 * @typedef {object} Kind
 * @property {string} unit
 * @property {() => Promise<Blob[]>} prepare
 * @property {(model: ModelEntry, index: number, each: number, images: Blob[]) => {path: string, body: unknown}} make
 * @property {(model: ModelEntry, each: number) => CurlRequest} curl
 */

/** @type {Partial<Record<string, Kind>>} */
const KINDS = {
  "image-classification": {
    unit: "images",
    prepare: () => Promise.all(Array.from({ length: NUM_DISTINCT }, (_, index) => image(index))),
    make: (model, index, each, images) => ({
      path: modelPath(model.id, "classify?top_k=1"),
      body: each === 1 ? images[index % NUM_DISTINCT] : form(images, index, each),
    }),
    curl: (model, each) => ({
      path: modelPath(model.id, "classify?top_k=1"),
      ...(each === 1 ? { bodyFile: "image.png" } : { form: { file: new Array(each).fill("@image.png") } }),
    }),
  },
  "image-generation": generation("images", (each) => ({ num_images: each })),
  "text-generation": generation("texts", (each) => ({ prompt: "It was", max_tokens: NUM_TOKENS, n: each })),
};

/**
 * Requests to `generate` that differ in their seeds; xargs puts the seed in place of `{}`.
 *
 * @param {string} unit
 * @param {(each: number) => object} members
 * @returns {Kind}
 */
function generation(unit, members) {
  return {
    unit,
    prepare: async () => [],
    make: (model, index, each) => ({ path: modelPath(model.id, "generate"), body: { ...members(each), seed: index * each } }),
    curl: (model, each) => ({
      path: modelPath(model.id, "generate"),
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ ...members(each), seed: {} }),
    }),
  };
}

/** @param {ModelEntry} model */
export function canBurst(model) {
  return isUsable(model) && model.task in KINDS;
}

/** @param {ModelEntry} model */
function kindOf(model) {
  const kind = KINDS[model.task];
  if (!kind) throw new Error(`No burst is known for the task "${model.task}".`);
  return kind;
}

/**
 * What a request of a burst holds: "images" or "texts".
 *
 * @param {ModelEntry} model
 */
export const unitOf = (model) => kindOf(model).unit;

/**
 * The request of a burst as curl sends it.
 *
 * @param {ModelEntry} model
 * @param {number} each
 */
export const curlOf = (model, each) => kindOf(model).curl(model, each);

/**
 * Send `times` requests of `each` items, `atOnce` in flight, and return the seconds that they took.
 *
 * @param {Burst & {times: number, onAnswer: (index: number, outcome: Outcome) => void, signal: AbortSignal}} options
 */
export async function burst({ model, times, atOnce, each, onAnswer, signal }) {
  const kind = kindOf(model);
  const images = await kind.prepare();
  let next = 0;

  async function sendInTurn() {
    while (next < times && !signal.aborted) {
      const index = next;
      next += 1;
      const { path, body } = kind.make(model, index, each, images);
      const outcome = await outcomeOf(path, body, signal);
      if (!signal.aborted) onAnswer(index, outcome);
    }
  }

  const began = performance.now();
  await Promise.all(Array.from({ length: atOnce }, sendInTurn));
  return (performance.now() - began) / 1000;
}

/** @param {string} path @param {unknown} body @param {AbortSignal} signal @returns {Promise<Outcome>} */
async function outcomeOf(path, body, signal) {
  const began = performance.now();
  const outcome = { batchSize: 0, error: null };
  try {
    const response = await request(path, { body, signal });
    await response.arrayBuffer();
    return { ...outcome, milliseconds: performance.now() - began, batchSize: serverTiming(response).batch ?? 0 };
  } catch (error) {
    return { ...outcome, milliseconds: performance.now() - began, error };
  }
}

/** @param {Blob[]} images @param {number} index @param {number} each */
function form(images, index, each) {
  const data = new FormData();
  for (let offset = 0; offset < each; offset += 1) {
    data.append("file", images[(index * each + offset) % NUM_DISTINCT], "image.png");
  }
  return data;
}

/**
 * A small image of a digit; no two are alike, so that no cache answers.
 *
 * @param {number} index
 */
function image(index) {
  const canvas = h("canvas", { width: IMAGE_SIDE, height: IMAGE_SIDE });
  const context = context2d(canvas);
  context.fillStyle = `hsl(${index * 15} 60% 12%)`;
  context.fillRect(0, 0, IMAGE_SIDE, IMAGE_SIDE);
  context.translate(IMAGE_SIDE / 2, IMAGE_SIDE / 2);
  context.rotate((index - NUM_DISTINCT / 2) * 0.02);
  context.font = "bold 26px sans-serif";
  context.textAlign = "center";
  context.textBaseline = "middle";
  context.fillStyle = "#fff";
  context.fillText(String(index % 10), 0, 1);
  return blobOf(canvas);
}
