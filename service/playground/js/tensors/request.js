/** A request of the Open Inference Protocol: JSON, and after it raw bytes where numbers are many or JSON cannot hold them. */

import { isRawOnly, sizeOf } from "./specs.js";

/** @import { Elements, FilledTensor, InferRequest, Metadata, OutputTensor } from "../types.d.ts" */

const MAX_JSON_ELEMENTS = 4096;
const LENGTH = "Inference-Header-Content-Length";

/** @param {string} name */
export const inferPath = (name) => `/v2/models/${encodeURIComponent(name)}/infer`;

/**
 * The request that sends tensors to a model.
 *
 * @param {Metadata} metadata
 * @param {FilledTensor[]} tensors
 * @returns {InferRequest}
 */
export function inferRequest({ name, outputs }, tensors) {
  const isRaw = tensors.some(needsBytes);
  const wantsRaw = outputs.some(({ datatype }) => isRawOnly(datatype));
  const bytes = isRaw ? tensors.map(({ spec, elements }) => bytesOf(elements, spec.datatype)) : [];
  const described = tensors.map((tensor, index) => describe(tensor, bytes[index]));
  // A request that names one output gets no other.
  const raw = { parameters: { binary_data: true } };
  const asked = wantsRaw ? outputs.map(({ name: output, datatype }) => ({ name: output, ...(isRawOnly(datatype) ? raw : {}) })) : null;
  const json = `{"inputs":[${described.join(",")}]${asked ? `,"outputs":${JSON.stringify(asked)}` : ""}}`;
  const head = new TextEncoder().encode(json);
  /** @type {Record<string, string>} */
  const length = isRaw ? { [LENGTH]: String(head.length) } : {};
  return {
    path: inferPath(name),
    headers: { "Content-Type": isRaw ? "application/octet-stream" : "application/json", ...length },
    json,
    isRaw,
    answersRaw: wantsRaw,
    outputs: asked,
    body: new Blob(/** @type {BlobPart[]} */ ([head, ...bytes])),
    tensors,
  };
}

/** @param {FilledTensor} tensor */
function needsBytes({ spec, elements }) {
  if (isRawOnly(spec.datatype)) return true;
  if (spec.datatype === "BYTES" || spec.datatype === "BOOL") return false;
  return elements.length > MAX_JSON_ELEMENTS || [...elements].some((element) => !Number.isFinite(Number(element)));
}

/** @param {FilledTensor} tensor @param {Uint8Array | undefined} bytes */
function describe({ spec: { name, datatype }, shape, elements }, bytes) {
  const start = `{"name":${JSON.stringify(name)},"datatype":"${datatype}","shape":${JSON.stringify(shape)}`;
  return bytes ? `${start},"parameters":{"binary_data_size":${bytes.length}}}` : `${start},"data":[${jsonElements(elements, datatype)}]}`;
}

/**
 * Elements as JSON has them; whole numbers keep all their digits.
 *
 * @param {Elements} elements
 * @param {string} datatype
 * @param {string} [separator]
 */
export function jsonElements(elements, datatype, separator = ",") {
  return [...elements].map((element) => (datatype === "BYTES" ? JSON.stringify(element) : String(element))).join(separator);
}

// Bytes

/** @param {Elements} elements @param {string} datatype @returns {Uint8Array} */
function bytesOf(elements, datatype) {
  if (datatype === "BYTES") return packedTexts(elements);
  if (datatype === "UINT64" || datatype === "INT64") {
    return bytesIn(BigInt64Array.from(elements, (element) => BigInt.asIntN(64, BigInt(element))));
  }
  const numbers = Array.from(elements, Number);
  if (datatype === "BF16") return bytesIn(Uint16Array.from(numbers, bfloat16));
  if (datatype === "FP16") return bytesIn(Uint16Array.from(numbers, float16));
  return bytesIn(ARRAYS[datatype].from(numbers));
}

/** @type {Record<string, {from(numbers: number[]): ArrayBufferView}>} */
const ARRAYS = {
  BOOL: Uint8Array,
  UINT8: Uint8Array,
  INT8: Int8Array,
  UINT16: Uint16Array,
  INT16: Int16Array,
  UINT32: Uint32Array,
  INT32: Int32Array,
  FP32: Float32Array,
  FP64: Float64Array,
};

/** @param {ArrayBufferView} array */
const bytesIn = (array) => new Uint8Array(array.buffer, array.byteOffset, array.byteLength);

/** Each text after its length. @param {Elements} texts */
function packedTexts(texts) {
  const encoded = Array.from(texts, (text) => new TextEncoder().encode(String(text)));
  const packed = new Uint8Array(encoded.reduce((sum, one) => sum + 4 + one.length, 0));
  let at = 0;
  for (const one of encoded) {
    new DataView(packed.buffer).setUint32(at, one.length, true);
    packed.set(one, at + 4);
    at += 4 + one.length;
  }
  return packed;
}

/** @param {number} value */
function bits32(value) {
  return new Uint32Array(Float32Array.of(value).buffer)[0];
}

/** The upper half of a float32, rounded to even. @param {number} value */
function bfloat16(value) {
  const bits = bits32(value);
  return Number.isNaN(value) ? 0x7fc0 : (bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16;
}

/** Rounded to even. @param {number} value */
function float16(value) {
  if (Number.isNaN(value)) return 0x7e00;
  const sign = value < 0 || Object.is(value, -0) ? 0x8000 : 0;
  const size = Math.abs(value);
  if (size >= 65520) return sign | 0x7c00;
  const exponent = Math.max(Math.floor(Math.log2(size || Number.MIN_VALUE)), -14);
  // A mantissa that is rounded up to the next power of two carries into the exponent by itself.
  const mantissa = roundToEven((size / 2 ** exponent) * 1024);
  return sign | (mantissa + (exponent + 14) * 1024);
}

/** @param {number} value */
function roundToEven(value) {
  const below = Math.floor(value);
  const rest = value - below;
  return rest > 0.5 || (rest === 0.5 && below % 2 === 1) ? below + 1 : below;
}

/** @param {number} bits */
function fromFloat16(bits) {
  const sign = bits & 0x8000 ? -1 : 1;
  const [exponent, mantissa] = [(bits >> 10) & 31, bits & 1023];
  if (exponent === 31) return mantissa ? NaN : sign * Infinity;
  return sign * 2 ** (Math.max(exponent, 1) - 15) * ((exponent ? 1 : 0) + mantissa / 1024);
}

/** @param {number} bits */
const fromBfloat16 = (bits) => new Float32Array(Uint32Array.of(bits << 16).buffer)[0];

// Answers

/**
 * The tensors of an answer. NaN and infinities come by name where JSON carries them.
 *
 * @param {Response} response
 * @returns {Promise<OutputTensor[]>}
 */
export async function outputsOf(response) {
  const bytes = new Uint8Array(await response.arrayBuffer());
  const length = Number(response.headers.get(LENGTH) ?? bytes.length);
  const { outputs } = JSON.parse(new TextDecoder().decode(bytes.subarray(0, length)), keepDigits);
  let at = length;
  return outputs.map((/** @type {any} */ { name, datatype, shape, data, parameters }) => {
    if (data) return { name, datatype, shape, elements: data };
    const raw = bytes.subarray(at, at + parameters.binary_data_size);
    at += raw.length;
    return { name, datatype, shape, elements: readHalves(raw, datatype, sizeOf(shape)) };
  });
}

/**
 * A whole number beyond 2⁵³ stays the text that it was, where the browser shows it (`context`, ECMAScript 2026).
 *
 * @param {string} _key
 * @param {unknown} value
 * @param {{source?: string}} [context]
 */
function keepDigits(_key, value, context) {
  const isRounded = typeof value === "number" && Number.isInteger(value) && !Number.isSafeInteger(value);
  return isRounded && /^-?\d+$/.test(context?.source ?? "") ? context?.source : value;
}

/** @param {Uint8Array} raw @param {string} datatype @param {number} count */
function readHalves(raw, datatype, count) {
  const view = new DataView(raw.buffer, raw.byteOffset, raw.length);
  const read = datatype === "FP16" ? fromFloat16 : fromBfloat16;
  return Float32Array.from({ length: count }, (_, index) => read(view.getUint16(index * 2, true)));
}
