/** What a page needs of one image generator: which labels it knows, and its routes as functions that return pictures. */

import { json, modelPath } from "../api.js";
import { pngUrl } from "../picture_files.js";

/** The generator of a manifest; every route resolves to {answer, request}, the latter for `curl`. */
export class Generator {
  constructor(manifest) {
    this.name = manifest.name;
    this.manifest = manifest;
    this.hasEncoder = "reconstruction" in manifest.graphs;
    this.decoderTakesLabel = takesLabel(manifest.graphs.decoder);
    const isLabelled = this.decoderTakesLabel || takesLabel(manifest.graphs.prior);
    this.labels = isLabelled ? (manifest.labels ?? []) : [];
  }

  labelName(index) {
    return index === null ? "Picture" : this.labels[index];
  }

  path(route) {
    return modelPath(this.name, route);
  }

  async post(route, body, signal) {
    const path = this.path(route);
    return { answer: await json(path, body, { signal }), request: { path, body } };
  }

  /** One picture by its seed and label, with its latent. */
  async one({ seed, label }, noise, signal) {
    const { answer, request } = await this.post("generate", { seed, ...withLabel(label), ...noise, latents: true }, signal);
    return { picture: { seed, label, url: pngUrl(answer.images[0].image), latent: answer.images[0].latent }, request };
  }
}

/** The member `label` of a request, where there is one. */
const withLabel = (label) => (label === null ? {} : { label });

const takesLabel = (graph) => Boolean(graph?.inputs.some(({ name }) => name === "label"));
