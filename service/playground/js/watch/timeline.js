/** The device's timeline: what each model computed in the last two seconds, from `/v1/trace`. */

import { repeat, request } from "../api.js";
import { button } from "../controls.js";
import { h, svg } from "../dom.js";
import { ApiError } from "../errors.js";
import { milliseconds } from "../format.js";
import { save } from "../image_files.js";
import { panel } from "../panel.js";

/** @import { TraceEvent, TraceFile } from "../types.d.ts" */
/** @typedef {{kind: string, lane: number, from: number, to: number, words: string}} Bar */

const SECONDS = 2;
const PATH = `/v1/trace?seconds=${SECONDS}`;
const WIDTH = SECONDS * 1000; // a unit is a millisecond
const LANE = 10;
const MIN_BAR = 2;
const REACH = 12; // milliseconds from a bar at which a pointer still means it
const KINDS = [
  { kind: "batch", words: "batch" },
  { kind: "prefill", words: "chunk of a prompt" },
  { kind: "decode", words: "step of texts" },
];
/** @type {Record<string, string>} */
const REASONS = {
  full: "it was full",
  window: "the window was over",
  deadline: "a deadline was near",
  idle: "the device was idle",
};

/**
 * The panel. It holds still while one looks at a bar; `choose` limits it to a model, or to none.
 *
 * @param {AbortSignal} signal
 */
export function timelinePanel(signal) {
  /** @type {Map<string, ReturnType<typeof modelRow>>} */
  const rows = new Map();
  /** @type {string | null} */
  let chosen = null;
  let newest = "";
  const readout = h("p", { class: "status muted timeline-readout" });
  const empty = h("p", { class: "muted" }, "Nothing ran in the last two seconds.");
  const list = h("div", { class: "timeline-rows" });
  const axis = h("div", { class: "timeline-axis muted", "aria-hidden": "true" }, h("span", {}, `${SECONDS} s ago`), h("span", {}, "now"));
  const keys = h("ul", { class: "legend" }, KINDS.map(({ kind, words }) => h("li", { class: `timeline-key ${kind}` }, words)));
  const download = button("Download the trace", () => save({ blob: new Blob([newest]), name: "hotplate-trace.json" }), {
    kind: "small",
    disabled: true,
  });
  const body = h("div", { class: "stack timeline" }, list, empty, axis, readout, h("div", { class: "row spread" }, keys, download));
  const card = panel(
    { title: "The device's timeline", hint: "Who computed when in the last two seconds. The downloaded trace opens in ui.perfetto.dev." },
    body,
  );
  card.show({ path: PATH });

  const isLookedAt = () => list.matches(":hover") || list.contains(document.activeElement);

  async function update() {
    if (isLookedAt() || document.hidden) return;
    const answer = await request(PATH, { signal });
    newest = await answer.text();
    if (signal.aborted || isLookedAt()) return;
    card.errors.hide();
    download.disabled = false;
    show(JSON.parse(newest));
  }

  /** @param {TraceFile} file */
  function show(file) {
    const bars = barsByModel(file);
    for (const name of bars.keys()) if (!rows.has(name)) rows.set(name, modelRow(name, say));
    for (const [name, row] of rows) row.show(bars.get(name) ?? []);
    list.replaceChildren(...[...rows].sort(([a], [b]) => a.localeCompare(b)).map(([, row]) => row.element));
    filter();
    say("Point at a bar, or move through a row with the arrow keys.");
  }

  function filter() {
    for (const [name, { element }] of rows) element.hidden = chosen !== null && !name.startsWith(`${chosen}@`);
    empty.hidden = [...rows.values()].some(({ element }) => !element.hidden);
  }

  /** @param {string} words */
  function say(words) {
    readout.textContent = words;
  }

  /** @param {unknown} error @returns {boolean} whether it is worth trying again */
  function onError(error) {
    const isClosed = error instanceof ApiError && (error.status === 403 || error.status === 404);
    if (!isClosed) card.errors.show(error);
    else say("Only administrators see it: with a key of the scope admin, or on the port of --admin-port.");
    empty.hidden ||= isClosed;
    return !isClosed;
  }

  repeat({ seconds: SECONDS, work: update, onError, signal });
  return {
    element: card.element,
    /** @param {string | null} model */
    choose(model) {
      chosen = model;
      filter();
    },
  };
}

/**
 * The bars of each model, in milliseconds from the beginning of the trace.
 *
 * @param {TraceFile} file
 */
function barsByModel({ traceEvents, otherData }) {
  const models = new Map(traceEvents.filter(({ name }) => name === "process_name").map(({ pid, args }) => [pid, String(args.name)]));
  /** @type {Map<string, Bar[]>} */
  const bars = new Map();
  /** @type {Map<string, number[]>} */
  const lanes = new Map();
  for (const event of traceEvents.filter(({ ph }) => ph === "X")) {
    const model = models.get(event.pid) ?? "";
    const threads = lanes.get(model) ?? [];
    if (!threads.includes(event.tid)) threads.push(event.tid);
    lanes.set(model, threads);
    const from = (event.ts - otherData.started_us) / 1000;
    const ofModel = bars.get(model) ?? [];
    ofModel.push({ kind: event.cat, lane: threads.indexOf(event.tid), from, to: from + event.dur / 1000, words: wordsOf(event) });
    bars.set(model, ofModel);
  }
  return bars;
}

/** @param {TraceEvent} event */
function wordsOf({ cat, dur, args }) {
  const { rows, tokens, texts, reason } = args;
  const size = cat === "batch" ? `batch of ${rows}` : cat === "prefill" ? `prompt, ${tokens} tokens` : `step of ${texts} texts`;
  return `${size}, ${milliseconds(dur / 1000)}${reason ? `, left as ${REASONS[reason] ?? reason}` : ""}`;
}

/**
 * The row of a model: a lane for each instance. A pointer, or the arrow keys, choose a bar, which `say` words.
 *
 * @param {string} name
 * @param {(words: string) => void} say
 */
function modelRow(name, say) {
  /** @type {Bar[]} */
  let bars = [];
  let numLanes = 1;
  const paths = KINDS.map(({ kind }) => svg("path", { class: `timeline-bar ${kind}` }));
  const mark = svg("path", { class: "timeline-mark" });
  const chart = svg("svg", { preserveAspectRatio: "none", "aria-hidden": "true" }, paths, mark);
  const busy = h("span", { class: "muted" });
  const track = h(
    "div",
    {
      class: "timeline-track",
      role: "slider",
      tabindex: 0,
      "aria-label": `${name}, what it computed`,
      on: { pointermove: onPoint, pointerleave: () => choose(-1), keydown: onKey, blur: () => choose(-1) },
    },
    chart,
  );
  const element = h("div", { class: "timeline-row" }, h("span", { class: "timeline-name" }, h("b", {}, name), " ", busy), track);
  let current = -1;

  /** @param {Bar[]} next */
  function show(next) {
    bars = [...next].sort((a, b) => a.from - b.from);
    numLanes = Math.max(1, ...bars.map(({ lane }) => lane + 1));
    chart.setAttribute("viewBox", `0 0 ${WIDTH} ${numLanes * LANE}`);
    KINDS.forEach(({ kind }, index) => paths[index].setAttribute("d", outline(bars.filter((bar) => bar.kind === kind))));
    const shown = bars.reduce((sum, { from, to }) => sum + Math.max(0, to - Math.max(from, 0)), 0);
    busy.textContent = bars.length ? `${Math.round((100 * shown) / (WIDTH * numLanes))} %` : "idle";
    busy.title = "of the last two seconds";
    choose(-1);
  }

  /** @param {number} index */
  function choose(index) {
    current = index;
    const bar = bars[index];
    mark.setAttribute("d", bar ? outline([bar]) : "");
    const words = bar ? `${name}: ${bar.words}` : "";
    if (bar) say(words);
    const text = words || `${bars.length} in the last two seconds, ${busy.textContent}`;
    for (const [key, value] of Object.entries({ min: 0, max: bars.length, now: index + 1, text })) {
      track.setAttribute(`aria-value${key}`, String(value));
    }
  }

  /** @param {PointerEvent} event */
  function onPoint(event) {
    const { left, top, width, height } = track.getBoundingClientRect();
    const at = ((event.clientX - left) / width) * WIDTH;
    const lane = Math.floor(((event.clientY - top) / height) * numLanes);
    const distances = bars.map((bar) => (bar.lane === lane ? Math.max(bar.from - at, at - bar.to, 0) : Infinity));
    const nearest = Math.min(...distances, Infinity);
    choose(nearest <= REACH ? distances.indexOf(nearest) : -1);
  }

  /** @param {KeyboardEvent} event */
  function onKey(event) {
    const steps = /** @type {Record<string, number>} */ ({ ArrowLeft: -1, ArrowRight: 1, Home: -bars.length, End: bars.length });
    const step = steps[event.key];
    if (step === undefined || !bars.length) return;
    event.preventDefault();
    choose(Math.min(bars.length - 1, Math.max(0, current < 0 && step < 0 ? bars.length - 1 : current + step)));
  }

  return { element, show };
}

/** @param {Bar[]} bars */
function outline(bars) {
  const boxes = bars.map(({ from, to, lane }) => {
    const left = Math.max(0, from);
    const width = Math.max(MIN_BAR, to - left);
    return `M${left.toFixed(1)} ${lane * LANE + 1}h${width.toFixed(1)}v${LANE - 2}h${(-width).toFixed(1)}z`;
  });
  return boxes.join("");
}
