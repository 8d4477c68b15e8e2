/** The frame: the page of an address, the bar above it, the theme, the key where the service needs one. */

import { config, listModels, onKeyNeeded, setKey } from "./api.js";
import { button, field } from "./controls.js";
import { announce, byId, clear, h } from "./dom.js";
import { ApiError, errorBox, notice, UserError } from "./errors.js";
import { hand } from "./handed.js";
import { pause } from "./scheduling.js";
import { addressOf, distinct, isUsable, modelsOf, takesTensors, TASKS } from "./tasks.js";

/** @import { ModelEntry } from "./types.d.ts" */
/** @typedef {{page: string, model: string | null}} Route */

const RETRY_MILLISECONDS = 2000;
const THEME = "hotplate-theme";
// Both spellings of a word, and what the bar calls the first page.
/** @type {Partial<Record<string, string>>} */
const ALIASES = { "": "home", models: "home", stylise: "stylize" };
const main = byId("main");
const nav = byId("nav");
const keyForm = /** @type {HTMLFormElement} */ (byId("key-form"));
let leaving = new AbortController();
/** @type {string | null} */
let shown = null;

/**
 * The page and the model of the address: `#/classify/mnist`.
 *
 * @returns {Route}
 */
function currentRoute() {
  const [name = "", model = ""] = location.hash.replace(/^#\/?|\?.*$/g, "").split("/").map(decoded);
  const page = name.toLowerCase();
  return { page: ALIASES[page] ?? page, model: model || null };
}

/** @param {string} part */
function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

/** Show the page of the address; `isReload` where the user went nowhere and only the service has changed. */
async function show({ isReload = false } = {}) {
  leaving.abort();
  leaving = new AbortController();
  const { signal } = leaving;
  const route = currentRoute();
  const isFirst = shown === null;
  shown = route.page;
  clear(main).setAttribute("aria-busy", "true");
  markCurrent(route.page);
  try {
    const models = await listModels({ signal });
    if (signal.aborted) return;
    buildNav(models, route.page);
    await openPage(route, models, signal);
  } catch (error) {
    if (!signal.aborted) await showFailure(error, signal);
    return;
  }
  if (signal.aborted) return;
  main.removeAttribute("aria-busy");
  if (!isFirst && !isReload) arrive();
}

/** @param {Route} route @param {ModelEntry[]} models @param {AbortSignal} signal */
async function openPage({ page, model }, models, signal) {
  const shownModel = modelFor(page, model, models);
  const module = await import(`./pages/${page}.js`);
  if (signal.aborted) return;
  document.title = page === "home" ? "Hotplate" : `${module.title} · Hotplate`;
  const reload = () => show({ isReload: true });
  await module.default(main, { model: shownModel, models, signal, reload });
}

/**
 * The model that a page shows; undefined where it shows none. Throws UserError for an address that names no page or model.
 *
 * @param {string} page
 * @param {string | null} model
 * @param {ModelEntry[]} models
 */
function modelFor(page, model, models) {
  if (["home", "picture", "watch"].includes(page)) return undefined;
  if (page === "tensors") return model ?? undefined; // or one of its graphs: the page knows
  const task = TASKS.find((one) => one.page === page);
  if (!task) throw new UserError(`There is no page "${page}".`);
  const names = modelsOf(models, task.task).map(({ id }) => id);
  if (names.length === 0) throw new UserError(`This service has no model for this page: ${task.title.toLowerCase()}.`);
  if (model && !names.includes(model)) {
    throw new UserError(`This page has no model "${model}"; it has ${names.join(", ")}.`);
  }
  return model ?? names[0];
}

/** @param {unknown} error @param {AbortSignal} signal */
async function showFailure(error, signal) {
  const box = errorBox();
  box.show(error);
  const status = error instanceof ApiError ? error.status : null;
  const isStarting = status === 503 || status === 0;
  const reason = status === 401 ? "An API key is needed" : "This page cannot be shown";
  main.removeAttribute("aria-busy");
  clear(main).append(h("h1", {}, isStarting ? "The service is not ready yet" : reason), box.element);
  if (!isStarting) {
    main.append(h("p", {}, h("a", { href: "#/" }, "All models")));
    return;
  }
  main.append(h("p", { class: "muted" }, "Trying again every two seconds."));
  await pause(RETRY_MILLISECONDS, signal);
  if (!signal.aborted) show();
}

/** A new page begins at its top, for the eye and for the keyboard. */
function arrive() {
  scrollTo(0, 0);
  main.focus({ preventScroll: true });
  announce(document.title);
}

/** @param {ModelEntry[]} models @param {string} current */
function buildNav(models, current) {
  const tasks = TASKS.filter((one) => modelsOf(models, one.task).length > 0);
  const links = [
    ["home", "#/", "Models"],
    ...tasks.map((one) => [one.page, `#/${one.page}`, one.verb]),
    ...(models.some((model) => isUsable(model) && takesTensors(model)) ? [["tensors", "#/tensors", "Tensors"]] : []),
    ["watch", "#/watch", "Watch"],
  ];
  clear(nav).append(...links.map(([page, href, text]) => h("a", { href, dataset: { page } }, text)));
  markCurrent(current);
}

/** @param {string} page */
function markCurrent(page) {
  for (const link of nav.querySelectorAll("a")) {
    if (link.dataset.page === page) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

/** Build the form for the API key; returns what shows it. */
function buildKeyForm() {
  const key = field({ label: "API key", type: "password", autocomplete: "off", hint: "Kept in this page's memory only." });
  keyForm.append(key.element, button("Use this key", () => keyForm.requestSubmit(), { kind: "primary" }));
  keyForm.addEventListener("submit", (event) => {
    event.preventDefault();
    setKey(key.value);
    keyForm.hidden = true;
    show();
  });
  return () => {
    keyForm.hidden = false;
  };
}

/** Let the button switch between light and dark: the system's theme, until the user chooses one. */
function buildThemeButton() {
  const element = byId("theme");
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");
  const opposite = () => ((root.dataset.theme ?? (system.matches ? "dark" : "light")) === "dark" ? "light" : "dark");

  function label() {
    element.textContent = opposite() === "dark" ? "Dark" : "Light";
    element.setAttribute("aria-label", `Switch to the ${opposite()} theme`);
  }

  const stored = storedTheme();
  if (stored === "dark" || stored === "light") root.dataset.theme = stored;
  element.addEventListener("click", () => {
    root.dataset.theme = opposite();
    storeTheme(root.dataset.theme);
    label();
  });
  system.addEventListener("change", label);
  label();
}

function storedTheme() {
  try {
    return localStorage.getItem(THEME);
  } catch {
    return null; // storage is switched off
  }
}

/** @param {string} theme */
function storeTheme(theme) {
  try {
    localStorage.setItem(THEME, theme);
  } catch {
    // Storage is switched off: the theme lasts until the page is left.
  }
}

/** The bar that finds things is loaded when it is first opened. */
function buildFinder() {
  const open = async () => {
    if (document.querySelector("dialog[open]")) return;
    const [{ openPalette }, models] = await Promise.all([import("./palette.js"), listModels().catch(() => [])]);
    openPalette(entriesOf(models));
  };
  byId("find").addEventListener("click", open);
  addEventListener("keydown", (event) => {
    if (event.key.toLowerCase() !== "k" || !(event.ctrlKey || event.metaKey) || event.shiftKey || event.altKey) return;
    event.preventDefault();
    open();
  });
}

/** @param {ModelEntry[]} models */
function entriesOf(models) {
  const go = (/** @type {string} */ address) => () => {
    location.href = address;
  };
  const pages = [...nav.querySelectorAll("a")].map((link) => ({ text: link.textContent, kind: "page", run: go(link.href) }));
  const named = distinct(models).filter(isUsable).map((model) => ({ text: model.id, kind: model.description, run: go(addressOf(model)) }));
  const actions = [
    { text: "Switch between light and dark", kind: "action", run: () => byId("theme").click() },
    { text: "API", kind: "every route, to try out", run: go("/docs") },
    { text: "Metrics", kind: "as Prometheus reads them", run: go("/metrics") },
  ];
  return [...pages, ...named, ...actions];
}

/** A picture may be dropped anywhere: what has a place of its own takes it, else it is shown to every model. */
function takeDrops() {
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => {
    if (event.defaultPrevented || !event.dataTransfer?.files.length) return;
    event.preventDefault(); // or the browser would leave the page for the file
    const files = [...event.dataTransfer.files];
    const picture = files.find((file) => file.type.startsWith("image/"));
    if (picture) showToAll(picture);
    else notice(`${files[0].name} is not an image. Drop a PNG, a JPEG or a WebP file.`);
  });
}

/** @param {File} picture */
function showToAll(picture) {
  hand(picture, picture.name);
  if (currentRoute().page === "picture") show({ isReload: true });
  else location.hash = "#/picture";
}

async function start() {
  buildThemeButton();
  takeDrops();
  buildFinder();
  // A link to #main would be taken for the address of a page.
  byId("skip").addEventListener("click", (event) => {
    event.preventDefault();
    main.focus();
  });
  const askForKey = buildKeyForm();
  onKeyNeeded(askForKey);
  addEventListener("hashchange", () => show());
  config().then(
    (settings) => {
      byId("version").textContent = `Hotplate ${settings.version}`;
      if (settings.needs_key) askForKey();
    },
    () => {},
  );
  await show();
}

start();
