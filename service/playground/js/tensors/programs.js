/** The same request as a program: Python with requests, JavaScript with fetch. What is short is written out, the rest is read from a file. */

import { hasKey } from "../api.js";
import { jsonElements } from "./request.js";

/** @import { FilledTensor, InferRequest, PictureRecipe } from "../types.d.ts" */

const MAX_INLINE = 1500;

/**
 * Whether a request is short enough to be written out.
 *
 * @param {InferRequest} request
 */
export const isShort = ({ isRaw, json }) => !isRaw && json.length <= MAX_INLINE;

/**
 * The name of the file that holds a request that is not short.
 *
 * @param {InferRequest} request
 * @param {string} model
 */
export const fileName = ({ isRaw }, model) => `${model.replace(/[^\w.-]/g, "_")}-request.${isRaw ? "bin" : "json"}`;

/** @param {InferRequest} request */
const urlOf = ({ path }) => new URL(path, location.href).href;

/** @param {boolean} needsKey */
const withKey = (needsKey) => needsKey || hasKey();

// Python

/**
 * @param {InferRequest} request
 * @param {{model: string, needsKey: boolean}} options
 */
export function pythonProgram(request, { model, needsKey }) {
  const pictured = request.tensors.filter(({ picture }) => picture);
  const isPictured = pictured.length > 0 && request.tensors.every((tensor) => tensor.picture || jsonOf(tensor).length <= MAX_INLINE);
  const isBuilt = isShort(request) || (isPictured && !request.tensors.some(({ spec }) => /16$/.test(spec.datatype) && spec.datatype !== "UINT16"));
  const recipes = isBuilt && !isShort(request) ? pictured : [];
  /** @type {Record<string, string>} */
  const key = withKey(needsKey) ? { Authorization: 'f"Bearer {os.environ[\'HOTPLATE_API_KEY\']}"' } : {};
  const sent = isBuilt ? jsonCall(request, recipes, key) : fileCall(request, fileName(request, model), key);
  const imports = [
    request.answersRaw ? "import json" : "",
    withKey(needsKey) ? "import os" : "",
    request.answersRaw || withKey(needsKey) ? " " : "",
    recipes.length || request.answersRaw ? "import numpy as np" : "",
    "import requests",
    recipes.length ? "from PIL import Image, ImageOps" : "",
  ].filter(Boolean);
  return [imports.join("\n").replace("\n \n", "\n\n"), ...recipes.map(({ picture }, index) => pythonPicture(picture, index)), sent, pythonAnswer(request.answersRaw)].join("\n\n");
}

/** @param {number} index */
const variable = (index) => (index ? `pixels_${index}` : "pixels");

/** @param {PictureRecipe | null | undefined} picture @param {number} index */
function pythonPicture(picture, index) {
  if (!picture) return "";
  const { file, layout, scaling, height, width } = picture;
  const name = variable(index);
  const lines = [
    `image = Image.open(${JSON.stringify(file.name)}).convert("${layout.channels === 1 ? "L" : "RGB"}")`,
    `${name} = np.asarray(ImageOps.fit(image, (${width}, ${height})), "${scaling ? "float32" : "uint8"}")`,
  ];
  if (scaling && scaling.divisor !== 1) lines.push(`${name} = ${name} / ${scaling.divisor}`);
  if (scaling && scaling.mean[0] !== 0) lines.push(`${name} = (${name} - ${constant(scaling.mean)}) / ${constant(scaling.deviation)}`);
  if (layout.channels === 3 && layout.isChannelsFirst) lines.push(`${name} = ${name}.transpose(2, 0, 1)`);
  return lines.join("\n");
}

/** One number where all are the same. @param {number[]} values */
const constant = (values) => (values.every((value) => value === values[0]) ? String(values[0]) : `np.array([${values.join(", ")}])`);

/** The elements of a tensor that JSON can hold; its strings and numbers are Python's too. @param {FilledTensor} tensor */
const jsonOf = ({ spec, elements }) => jsonElements(elements, spec.datatype, ", ");

/** @param {InferRequest} request @param {FilledTensor[]} pictured @param {Record<string, string>} key */
function jsonCall(request, pictured, key) {
  const inputs = request.tensors.map((tensor) => {
    const { spec, shape } = tensor;
    const place = pictured.indexOf(tensor);
    const data = place < 0 ? `[${spec.datatype === "BOOL" ? pythonTruths(tensor) : jsonOf(tensor)}]` : `${variable(place)}.ravel().tolist()`;
    return `            {"name": ${JSON.stringify(spec.name)}, "datatype": "${spec.datatype}", "shape": [${shape.join(", ")}], "data": ${data}},`;
  });
  const asked = request.outputs ? [`        "outputs": [${request.outputs.map(pythonOutput).join(", ")}],`] : [];
  return [
    "response = requests.post(",
    `    ${JSON.stringify(urlOf(request))},`,
    ...headersOf(key),
    "    json={",
    '        "inputs": [',
    ...inputs,
    "        ],",
    ...asked,
    "    },",
    ")",
  ].join("\n");
}

/** @param {FilledTensor} tensor */
const pythonTruths = ({ elements }) => Array.from(elements, (element) => (element ? "True" : "False")).join(", ");

/** @param {{name: string, parameters?: object}} output */
const pythonOutput = ({ name, parameters }) => `{"name": ${JSON.stringify(name)}${parameters ? ', "parameters": {"binary_data": True}' : ""}}`;

/** @param {Record<string, string>} headers their values as Python has them */
function headersOf(headers) {
  const entries = Object.entries(headers);
  return entries.length ? [`    headers={${entries.map(([name, value]) => `"${name}": ${value}`).join(", ")}},`] : [];
}

/** @param {InferRequest} request @param {string} file @param {Record<string, string>} key */
function fileCall(request, file, key) {
  const headers = Object.fromEntries(Object.entries(request.headers).map(([name, value]) => [name, JSON.stringify(value)]));
  return [
    `with open("${file}", "rb") as file:`,
    "    response = requests.post(",
    `        ${JSON.stringify(urlOf(request))},`,
    ...headersOf({ ...key, ...headers }).map((line) => `    ${line}`),
    "        data=file,",
    "    )",
  ].join("\n");
}

/** @param {boolean} isRaw */
function pythonAnswer(isRaw) {
  if (!isRaw) {
    return [
      "if not response.ok:",
      "    raise SystemExit(response.text)",
      'for output in response.json()["outputs"]:',
      '    print(output["name"], output["shape"], output["data"])',
    ].join("\n");
  }
  return [
    "if not response.ok:",
    "    raise SystemExit(response.text)",
    'length = int(response.headers["Inference-Header-Content-Length"])',
    "answer, raw = response.content[:length], response.content[length:]",
    'for output in json.loads(answer)["outputs"]:',
    '    if "data" in output:',
    '        print(output["name"], output["shape"], output["data"])',
    "        continue",
    '    size = output["parameters"]["binary_data_size"]',
    '    halves = np.frombuffer(raw[:size], "uint16")',
    '    is_fp16 = output["datatype"] == "FP16"',
    '    values = halves.view("float16") if is_fp16 else (halves.astype("uint32") << 16).view("float32")',
    '    print(output["name"], output["shape"], values.tolist())',
    "    raw = raw[size:]",
  ].join("\n");
}

// JavaScript

/**
 * @param {InferRequest} request
 * @param {{model: string, needsKey: boolean}} options
 */
export function javascriptProgram(request, { model, needsKey }) {
  const isWritten = isShort(request);
  const headers = Object.entries(request.headers).map(([name, value]) => `"${name}": "${value}"`);
  if (withKey(needsKey)) headers.push('"Authorization": "Bearer " + process.env.HOTPLATE_API_KEY');
  return [
    "// A module for Node 18 or newer: node request.mjs",
    ...(isWritten ? [] : ['import { readFileSync } from "node:fs";']),
    "",
    `const response = await fetch(${JSON.stringify(urlOf(request))}, {`,
    '  method: "POST",',
    `  headers: { ${headers.join(", ")} },`,
    `  body: ${isWritten ? writtenBody(request) : `readFileSync("${fileName(request, model)}")`},`,
    "});",
    "if (!response.ok) throw new Error(await response.text());",
    ...(request.answersRaw ? RAW_ANSWER : ["const { outputs } = await response.json();"]),
    "for (const { name, shape, data } of outputs) console.log(name, shape, data);",
  ].join("\n");
}

const RAW_ANSWER = [
  'const length = Number(response.headers.get("Inference-Header-Content-Length"));',
  "const bytes = new Uint8Array(await response.arrayBuffer());",
  "const { outputs } = JSON.parse(new TextDecoder().decode(bytes.subarray(0, length)));",
  "// Numbers of 16 bits follow the JSON in the order of the outputs, each as long as its binary_data_size.",
  "const raw = bytes.subarray(length);",
];

/** @param {InferRequest} request */
function writtenBody({ json, tensors, outputs }) {
  // JSON.stringify would round whole numbers of more than 53 bits.
  if (tensors.some(({ spec, elements }) => spec.datatype.endsWith("INT64") && [...elements].some(isLong))) return JSON.stringify(json);
  const inputs = tensors.map(({ spec, shape, elements }) => {
    const data = jsonElements(elements, spec.datatype, ", ");
    return `      { name: ${JSON.stringify(spec.name)}, datatype: "${spec.datatype}", shape: [${shape.join(", ")}], data: [${data}] },`;
  });
  const asked = outputs ? [`    outputs: ${JSON.stringify(outputs)},`] : [];
  return ["JSON.stringify({", "    inputs: [", ...inputs, "    ],", ...asked, "  })"].join("\n");
}

/** @param {string | number | boolean} element */
const isLong = (element) => Number.isInteger(Number(element)) && !Number.isSafeInteger(Number(element));
