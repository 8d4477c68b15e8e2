/** Makes elements, links style sheets and announces text to screen readers. It knows nothing of models. */

/** @import { Child, Listeners, Props, Scalar } from "./types.d.ts" */

const SVG = "http://www.w3.org/2000/svg";
const ATTRIBUTES = new Set(["role", "for", "list", "form", "width", "height", "tabindex", "datetime", "colspan"]);

/**
 * Make an HTML element. Props: class, dataset, style (an object), on ({click: fn}); anything else is a property of the
 * element where it has one, an attribute otherwise. Children may be nodes, texts, numbers, lists; null and false are skipped.
 *
 * @template {keyof HTMLElementTagNameMap} Tag
 * @param {Tag} tag
 * @param {Props<HTMLElementTagNameMap[Tag]>} [props]
 * @param {...Child} children
 */
export function h(tag, props, ...children) {
  const element = document.createElement(tag);
  const { class: kind, dataset, style, on, ...others } = props ?? {};
  if (kind) element.className = kind;
  Object.assign(element.dataset, dataset);
  setStyle(element, style ?? {});
  listen(element, on ?? {});
  for (const [name, value] of Object.entries(others)) {
    if (value === null || value === undefined) continue;
    if (name in element && !ATTRIBUTES.has(name)) Reflect.set(element, name, value);
    else setAttribute(element, name, value);
  }
  append(element, children);
  return element;
}

/**
 * Make an SVG element of attributes.
 *
 * @template {keyof SVGElementTagNameMap} Tag
 * @param {Tag} tag
 * @param {Record<string, Scalar>} attributes
 * @param {...Child} children
 */
export function svg(tag, attributes, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) setAttribute(element, name, value);
  append(element, children);
  return element;
}

/** @param {Element} element @param {readonly Child[]} children */
function append(element, children) {
  for (const child of children) {
    if (child === null || child === undefined || child === false) continue;
    if (child instanceof Node || typeof child === "string") element.append(child);
    else if (typeof child === "number") element.append(String(child));
    else append(element, child);
  }
}

/**
 * The content security policy refuses a style attribute, but not its properties.
 *
 * @param {HTMLElement} element
 * @param {Record<string, string>} style
 */
function setStyle(element, style) {
  for (const [name, value] of Object.entries(style)) element.style.setProperty(name, value);
}

/** @param {Element} element @param {string} name @param {Scalar} value */
function setAttribute(element, name, value) {
  if (value === null || value === undefined) return;
  const isAria = name.startsWith("aria-");
  if (value === false && !isAria) return;
  element.setAttribute(name, value === true && !isAria ? "" : String(value));
}

/** @param {HTMLElement} element @param {Listeners} listeners */
function listen(element, listeners) {
  for (const [event, listener] of Object.entries(listeners)) {
    element.addEventListener(event, /** @type {EventListener} */ (listener));
  }
}

/**
 * Remove all children.
 *
 * @template {Element} Node
 * @param {Node} node
 */
export function clear(node) {
  node.replaceChildren();
  return node;
}

/**
 * The element of `index.html` with an id.
 *
 * @param {string} id
 */
export function byId(id) {
  const element = document.getElementById(id);
  if (!element) throw new Error(`The page has no element "${id}".`);
  return element;
}

/**
 * The nearest element that matches, from the target of an event upward.
 *
 * @param {Event} event
 * @param {string} selector
 */
export function closest(event, selector) {
  return event.target instanceof Element ? /** @type {HTMLElement | null} */ (event.target.closest(selector)) : null;
}

/**
 * The element that has the focus, by its place among children; -1 where it is elsewhere.
 *
 * @param {Element} parent
 */
export function focusedChild(parent) {
  return [...parent.children].findIndex((child) => child.contains(document.activeElement));
}

/**
 * The context that draws on a canvas.
 *
 * @param {HTMLCanvasElement} canvas
 * @param {CanvasRenderingContext2DSettings} [settings]
 */
export function context2d(canvas, settings) {
  const context = canvas.getContext("2d", settings);
  if (!context) throw new Error("The browser cannot draw on a canvas.");
  return context;
}

/** @type {Map<string, Promise<void>>} */
const styles = new Map();

/**
 * Link `/playground/css/<name>.css` once; the promise resolves when it applies.
 *
 * @param {string} name
 */
export function useStyle(name) {
  const linked = styles.get(name) ?? linkStyle(name);
  styles.set(name, linked);
  return linked;
}

/** @param {string} name @returns {Promise<void>} */
function linkStyle(name) {
  return new Promise((resolve, reject) => {
    const failed = () => {
      styles.delete(name);
      link.remove();
      reject(new Error(`The style sheet ${name}.css could not be loaded.`));
    };
    const on = { load: () => resolve(), error: failed };
    const link = h("link", { rel: "stylesheet", href: `/playground/css/${name}.css`, on });
    document.head.append(link);
  });
}

/**
 * Announce a text to screen readers, politely.
 *
 * @param {string} text
 */
export function announce(text) {
  const region = byId("announcer");
  region.textContent = "";
  // The same text twice is news again only if the region was seen empty in between.
  requestAnimationFrame(() => {
    region.textContent = text;
  });
}

let counter = 0;

/**
 * An id that no other element of this page has.
 *
 * @param {string} prefix
 */
export function uniqueId(prefix) {
  counter += 1;
  return `${prefix}-${counter}`;
}
