/** The requests of a burst: what each model is asked, and how so many are sent with a bounded number under way. */

import { modelPath, request } from "../api.js";
import { h } from "../dom.js";
import { blobOf } from "../picture_files.js";
import { serverTiming } from "../timing.js";

const NUM_DISTINCT = 24;
const NUM_TOKENS = 16;

// What is sent to a model of each task: `prepare` once, `make` each request, `curl` the same for people.
const KINDS = {
  "image-classification": {
    unit: "pictures",
    prepare: () => Promise.all(Array.from({ length: NUM_DISTINCT }, (_, index) => picture(index))),
    make: (model, index, each, pictures) => ({
      path: modelPath(model.id, "classify?top_k=1"),
      body: each === 1 ? pictures[index % NUM_DISTINCT] : form(pictures, index, each),
    }),
    curl: (model, each) => ({
      path: modelPath(model.id, "classify?top_k=1"),
      ...(each === 1 ? { bodyFile: "picture.png" } : { form: { file: new Array(each).fill("@picture.png") } }),
    }),
  },
  "image-generation": {
    unit: "pictures",
    prepare: () => null,
    make: (model, index, each) => ({ path: modelPath(model.id, "generate"), body: { num_images: each, seed: index * each } }),
    curl: (model, each) => ({
      path: modelPath(model.id, "generate"),
      headers: { "Content-Type": "application/json" },
      body: `{"num_images":${each},"seed":{}}`,
    }),
  },
  "text-generation": {
    unit: "texts",
    prepare: () => null,
    make: (model, index, each) => ({
      path: modelPath(model.id, "generate"),
      body: { prompt: "It was", max_tokens: NUM_TOKENS, n: each, seed: index * each },
    }),
    curl: (model, each) => ({
      path: modelPath(model.id, "generate"),
      headers: { "Content-Type": "application/json" },
      body: `{"prompt":"It was","max_tokens":${NUM_TOKENS},"n":${each},"seed":{}}`,
    }),
  },
};

/** Whether a burst can be sent to a model. */
export function canBurst(model) {
  return model.state === "ready" && model.task in KINDS;
}

/** What a request of a burst holds: "pictures" or "texts". */
export function unitOf(model) {
  return KINDS[model.task].unit;
}

/** The request of a burst in the words of `curlPanel`. */
export function curlOf(model, each) {
  return KINDS[model.task].curl(model, each);
}

/**
 * Send `times` requests of `each` items, `atOnce` under way; `onAnswer(index, outcome)` hears of each, `{milliseconds,
 * batchSize, error}`, where `batchSize` is that of the batch in which it was computed, 0 where many were.
 */
export async function burst({ model, times, atOnce, each, onAnswer, signal }) {
  const kind = KINDS[model.task];
  const prepared = await kind.prepare();
  let next = 0;

  async function sendOnAndOn() {
    while (next < times && !signal.aborted) {
      const index = next;
      next += 1;
      const outcome = await answered(kind.make(model, index, each, prepared), signal);
      if (!signal.aborted) onAnswer(index, outcome);
    }
  }

  const began = performance.now();
  await Promise.all(Array.from({ length: atOnce }, sendOnAndOn));
  return (performance.now() - began) / 1000;
}

async function answered({ path, body }, signal) {
  const began = performance.now();
  try {
    const response = await request(path, { body, signal });
    await response.arrayBuffer();
    return { milliseconds: performance.now() - began, batchSize: Number(serverTiming(response).batch ?? 0), error: null };
  } catch (error) {
    return { milliseconds: performance.now() - began, batchSize: 0, error };
  }
}

function form(pictures, index, each) {
  const data = new FormData();
  for (let offset = 0; offset < each; offset += 1) {
    data.append("file", pictures[(index * each + offset) % NUM_DISTINCT], "picture.png");
  }
  return data;
}

/** A small picture of a character; no two are alike, so that no cache answers. */
function picture(index) {
  const canvas = h("canvas");
  canvas.width = canvas.height = 32;
  const context = canvas.getContext("2d");
  context.fillStyle = `hsl(${index * 15} 60% 12%)`;
  context.fillRect(0, 0, 32, 32);
  context.translate(16, 16);
  context.rotate((index - NUM_DISTINCT / 2) * 0.02);
  context.font = "bold 26px sans-serif";
  context.textAlign = "center";
  context.textBaseline = "middle";
  context.fillStyle = "#fff";
  context.fillText(String(index % 10), 0, 1);
  return blobOf(canvas);
}
