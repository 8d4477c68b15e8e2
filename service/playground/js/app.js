/** The frame: which page an address shows, the bar above it, the key where the service wants one. Pages load on demand. */

import { ApiError, config, models, onKeyWanted, setKey } from "./api.js";
import { button, errorBox, field, pause } from "./controls.js";
import { announce, clear, h } from "./dom.js";
import { TASKS, modelsOf } from "./tasks.js";
import { themeButton } from "./theme.js";

const RETRY_MILLISECONDS = 2000;
const main = document.getElementById("main");
const nav = document.getElementById("nav");
const keyForm = document.getElementById("key-form");
let leaving = new AbortController();
let shown = null;

/** What an address names: `#/classify/mnist` is the page `classify` with the model `mnist`. */
function route() {
  const [page = "", model = ""] = location.hash.replace(/^#\/?/, "").split("/").map(decoded);
  if (page === "") return { page: "home", model: null };
  return { page, model: model || null };
}

function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

/** Show what the address names; `isSame` where nobody went anywhere and only the service has changed. */
async function show({ isSame = false } = {}) {
  leaving.abort();
  leaving = new AbortController();
  const { signal } = leaving;
  const wanted = route();
  const isFirst = shown === null;
  shown = wanted.page;
  clear(main).setAttribute("aria-busy", "true");
  markCurrent(wanted.page);
  try {
    const listed = await models({ signal });
    if (signal.aborted) return;
    buildNav(listed, wanted.page);
    await showPage(wanted, listed, signal);
  } catch (error) {
    if (!signal.aborted) await showFailure(error, signal);
    return;
  }
  if (signal.aborted) return;
  main.removeAttribute("aria-busy");
  if (!isFirst && !isSame) arrive();
}

async function showPage({ page, model }, listed, signal) {
  const task = TASKS.find((one) => one.page === page);
  if (!task && page !== "home" && page !== "watch") throw new Error(`There is no page "${page}".`);
  const fitting = task ? modelsOf(listed, task.task) : [];
  if (task && fitting.length === 0) throw new Error(`No model of this service does this: ${task.title.toLowerCase()}.`);
  if (task && model && !fitting.some((one) => one.id === model)) {
    throw new Error(`"${model}" is no model for this page; these are: ${fitting.map((one) => one.id).join(", ")}.`);
  }
  const module = await import(`./pages/${page}.js`);
  if (signal.aborted) return;
  document.title = page === "home" ? "Hotplate" : `${module.title} · Hotplate`;
  const again = () => show({ isSame: true });
  await module.default(main, { model: model ?? fitting[0]?.id, models: listed, signal, again });
}

async function showFailure(error, signal) {
  const box = errorBox();
  const starting = error instanceof ApiError && (error.status === 503 || error.status === 0);
  box.show(error);
  const refused = error.status === 401 ? "An API key is needed" : "This page cannot be shown";
  main.removeAttribute("aria-busy");
  clear(main).append(h("h1", {}, starting ? "The service is not ready yet" : refused), box.element);
  if (!starting) {
    main.append(h("p", {}, h("a", { href: "#/" }, "All models")));
    return;
  }
  main.append(h("p", { class: "muted" }, "Trying again every two seconds."));
  await pause(RETRY_MILLISECONDS, signal);
  if (!signal.aborted) show();
}

// A new page begins at its top, for the eye and for the keyboard.
function arrive() {
  scrollTo(0, 0);
  main.focus({ preventScroll: true });
  announce(document.title);
}

function buildNav(listed, current) {
  const tasks = TASKS.filter((one) => modelsOf(listed, one.task).length > 0);
  const links = [
    ["home", "#/", "Models"],
    ...tasks.map((one) => [one.page, `#/${one.page}`, one.verb]),
    ["watch", "#/watch", "Watch"],
  ];
  clear(nav).append(...links.map(([page, href, text]) => h("a", { href, dataset: { page } }, text)));
  markCurrent(current);
}

function markCurrent(page) {
  for (const link of nav.children) {
    if (link.dataset.page === page) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

function buildKeyForm() {
  const key = field({ label: "API key", type: "password", autocomplete: "off", hint: "Kept in this page's memory only." });
  keyForm.append(key.element, button("Use this key", () => keyForm.requestSubmit(), { kind: "primary" }));
  keyForm.addEventListener("submit", (event) => {
    event.preventDefault();
    setKey(key.value);
    keyForm.hidden = true;
    show();
  });
  const ask = () => {
    keyForm.hidden = false;
  };
  onKeyWanted(ask);
  return ask;
}

async function begin() {
  themeButton(document.getElementById("theme"));
  // A link to #main would be taken for the address of a page.
  document.getElementById("skip").addEventListener("click", (event) => {
    event.preventDefault();
    main.focus();
  });
  const askForKey = buildKeyForm();
  addEventListener("hashchange", () => show());
  config().then(
    (settings) => {
      document.getElementById("version").textContent = `Hotplate ${settings.version}`;
      if (settings.needs_key) askForKey();
    },
    () => {},
  );
  await show();
}

begin();
