/** Shapes of the service's answers, and of what the modules of the page hand to one another. Types only: never served. */

// Elements

export type Scalar = string | number | boolean | null | undefined;
export type Child = Node | string | number | false | null | undefined | readonly Child[];
export type AttributeName = "role" | "for" | "list" | "form" | "width" | "height" | "tabindex" | "datetime" | "colspan" | "scope";
export type Listeners = { [Name in keyof HTMLElementEventMap]?: (event: HTMLElementEventMap[Name]) => unknown };

type Special = "class" | "dataset" | "style" | "on" | AttributeName;
type Settable<Value> = Value extends string ? Value | number : Value;

/** Props of `h`: a property of the element, or an attribute, `aria-*` included. */
export type Props<E> = {
  class?: string;
  dataset?: Record<string, string | number>;
  style?: Record<string, string>;
  on?: Listeners;
} & { [Name in AttributeName | `aria-${string}`]?: Scalar } & {
  [Name in Exclude<keyof E, Special>]?: Settable<E[Name]> | null;
};

/** What every control has in common. */
export interface Control<Value, Input extends HTMLElement = HTMLInputElement> {
  element: HTMLElement;
  input: Input;
  readonly value: Value;
  set(next: Value): void;
}

export interface Option {
  value: string;
  label: string;
  /** The heading that it stands under. */
  group?: string;
}

// The service

export interface ModelEntry {
  id: string;
  task: string;
  version: string;
  state: string;
  description: string;
  reason?: string;
}

/** A tensor as a model has it; an open axis is -1. */
export interface TensorSpec {
  name: string;
  datatype: string;
  shape: number[];
}

export interface Graph {
  inputs: TensorSpec[];
  outputs: TensorSpec[];
}

/** What the Open Inference Protocol says of a graph. */
export interface Metadata {
  name: string;
  inputs: TensorSpec[];
  outputs: TensorSpec[];
}

export interface Evaluation {
  metric: string;
  value: number;
  dataset?: string;
  split?: string;
  count?: number;
}

export interface Language {
  context: number;
  attention_tokens: number;
  states: { name: string; length_axis?: number | null }[];
}

export interface Manifest {
  name: string;
  task: string;
  description?: string;
  labels?: string[];
  graphs: Record<string, Graph>;
  evaluation?: Evaluation[];
  training?: { parameters?: number };
  language?: Language;
  light_on_dark?: boolean;
  chat_template?: string | null;
}

export interface ModelCard {
  manifest: Manifest;
  device?: string;
  precision?: { precision: string; reason: string } | null;
}

export interface PageSettings {
  version: string;
  burst_allowed: boolean;
  needs_key: boolean;
}

/** An event of `/v1/trace`: `M` names a process or a thread, `X` is a bar. Times are in microseconds. */
export interface TraceEvent {
  name: string;
  ph: "M" | "X";
  pid: number;
  tid: number;
  ts: number;
  dur: number;
  cat: string;
  args: { name?: string; rows?: number; tokens?: number; texts?: number; reason?: string };
}

export interface TraceFile {
  traceEvents: TraceEvent[];
  otherData: { started_us: number; ended_us: number };
}

export interface Prediction {
  label: string;
  probability: number;
}

export interface Classification {
  results: { predictions: Prediction[]; input: string; explanation?: string; novelty?: number; is_novel?: boolean }[];
}

export interface Style {
  name: string;
  thumbnail: string;
}

export interface GeneratedImage {
  image: string;
  seed: number;
  /** The label by its number and by its name, where the model has labels. */
  index?: number | null;
  label?: string;
  latent?: number[];
}

export interface Reconstruction {
  input: string;
  image: string;
  error_map: string;
  anomaly_score: number;
  negative_elbo: number;
  rate: number;
  distortion: number;
}

export interface Token {
  id: number;
  text: string;
  start: number;
  bytes: number[];
  logprob?: number | null;
}

/** An answer of `tokenize` or of `score`; the latter measures the text. */
export interface TokenizedText {
  tokens: Token[];
  num_tokens: number;
  num_bytes?: number;
  perplexity?: number;
  bits_per_byte?: number;
}

export interface Candidate {
  text: string;
  probability?: number;
}

/** Weights by layer, head, token and earlier token. */
export interface AttentionAnswer {
  tokens: { text: string }[];
  attention: number[][][][];
}

/** A sentence as it was read and as it was written: `weights[i][j]` is how much character `i` of `text` was read from `j` of `source`. */
export interface Alignment {
  start: number;
  source: string;
  text: string;
  weights: number[][];
}

export interface CorrectAnswer {
  results: { text: string; is_changed: boolean; alignment?: Alignment[] }[];
}

/** A piece of a streamed text, or the last event, which has `timing`. */
export interface TextEvent {
  text: string;
  tokens: unknown[];
  finish_reason?: string | null;
  seed: number;
  usage: { completion_tokens: number };
  timing?: { tokens_per_second: number; time_to_first_token_seconds: number };
}

// Tensors

/** Numerals as texts, so that no digit is lost; numbers of pictures; texts; truths. */
export type Elements = (string | boolean | number)[] | Uint8Array | Float32Array;

export interface OutputTensor extends TensorSpec {
  elements: Elements;
}

/** An axis of -1 is open. */
export interface PictureLayout {
  height: number;
  width: number;
  channels: number;
  isChannelsFirst: boolean;
}

/** How a file became numbers; without a scaling they are its bytes. */
export interface PictureRecipe {
  file: NamedBlob;
  layout: PictureLayout;
  scaling: { divisor: number; mean: number[]; deviation: number[] } | null;
  height: number;
  width: number;
}

/** What a form gives for an input. */
export interface Filled {
  shape: number[];
  elements: Elements;
  picture?: PictureRecipe | null;
}

export interface FilledTensor extends Filled {
  spec: TensorSpec;
}

/** One of the ways to give an input; `read` throws UserError while it is not complete. */
export interface Way {
  label: string;
  element: HTMLElement;
  read(): Filled;
  fill(isRandom: boolean): void;
  summary?(filled: Filled): string;
  stop(): void;
}

/** `json` is the head of the body, and all of it unless the request is raw. */
export interface InferRequest {
  path: string;
  headers: Record<string, string>;
  json: string;
  body: Blob;
  isRaw: boolean;
  answersRaw: boolean;
  outputs: { name: string; parameters?: object }[] | null;
  tensors: FilledTensor[];
}

// The page

/** What a page is opened with; `reload` opens it again after the service has changed. */
export interface PageContext {
  model: string;
  models: ModelEntry[];
  signal: AbortSignal;
  reload: () => Promise<void>;
}

export interface RequestOptions {
  headers?: Record<string, string>;
  body?: unknown;
  signal?: AbortSignal;
  accept?: string;
}

/** A request as `curlCommand` writes it. */
export interface CurlRequest {
  path: string;
  headers?: Record<string, string>;
  /** JSON, or a text that is sent as it is. */
  body?: unknown;
  /** The name of a file that is sent as it is. */
  bodyFile?: string;
  /** Fields of a form; a value that starts with `@` names a file. */
  form?: Record<string, string | number | string[]>;
  /** The file that takes a binary answer. */
  output?: string;
  stream?: boolean;
  /** How often it is sent, and how many at the same time. */
  times?: number;
  atOnce?: number;
}

export interface SampleImage {
  name: string;
  url: string;
}

export interface NamedBlob {
  blob: Blob;
  name: string;
}

export interface Size {
  width: number;
  height: number;
}

export interface MetricSample {
  name: string;
  labels: Record<string, string>;
  value: number;
}

/** The samples of `/metrics`, and when they were read, in milliseconds. */
export interface Scrape {
  samples: MetricSample[];
  time: number;
}

export interface Bucket {
  le: number;
  count: number;
}

/** Labels that samples must have: each a value, or a test of the value. */
export type LabelFilter = Record<string, string | ((value: string) => boolean)>;

/** An image of a generator; its seed and label generate it again. */
export interface SeededImage {
  seed: number;
  label: number | null;
  url: string;
  latent?: number[];
}

export interface Noise {
  temperature?: number;
  truncation?: number;
}

export interface Place {
  x: number;
  y: number;
}

/** One request of a burst; `batchSize` is that of the batch that computed it, 0 where there were many. */
export interface Outcome {
  milliseconds: number;
  batchSize: number;
  error: unknown;
}

export interface Burst {
  model: ModelEntry;
  atOnce: number;
  each: number;
}

export interface TextOutcome {
  numTokens: number;
  tokensPerSecond: number;
  firstTokenSeconds: number | null;
  reason: string;
  seed: number | string | null;
}
