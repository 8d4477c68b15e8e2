/** What a page needs of one image generator: which labels it knows, and its routes as functions that return pictures. */

import { json } from "../api.js";

/** A PNG in base64 as an address for `<img>`. */
export const pngUrl = (base64) => `data:image/png;base64,${base64}`;

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

  async post(route, body, signal) {
    const path = `/v1/models/${this.name}/${route}`;
    return { answer: await json(path, body, { signal }), request: { method: "POST", path, body } };
  }

  /** One picture by its seed and label, with its latent. */
  async one({ seed, label }, noise, signal) {
    const { answer, request } = await this.post("generate", { seed, ...withLabel(label), ...noise, latents: true }, signal);
    return { picture: { seed, label, url: pngUrl(answer.images[0].image), latent: answer.images[0].latent }, request };
  }
}

/** The member `label` of a request, where there is one. */
export const withLabel = (label) => (label === null ? {} : { label });

const takesLabel = (graph) => Boolean(graph?.inputs.some(({ name }) => name === "label"));

/** A seed that is short enough to be read out. */
export const anySeed = () => Math.floor(Math.random() * 1e6);
