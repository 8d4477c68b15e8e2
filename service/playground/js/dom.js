/** Makes elements, links style sheets and speaks to screen readers. It knows nothing of models. */

const SVG = "http://www.w3.org/2000/svg";
const ATTRIBUTES = new Set(["role", "for", "list", "form", "width", "height", "tabindex", "datetime", "colspan"]);

/**
 * Make an HTML element. Props: class, dataset, style (an object), on ({click: fn}); anything else is a property of the
 * element where it has one, an attribute otherwise. Children may be nodes, texts, numbers, lists; null and false are skipped.
 */
export function h(tag, props, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value === null || value === undefined) continue;
    if (name === "class") element.className = value;
    else if (name === "dataset") Object.assign(element.dataset, value);
    else if (name === "style") setStyle(element, value);
    else if (name === "on") listen(element, value);
    else if (name in element && !ATTRIBUTES.has(name)) element[name] = value;
    else setAttribute(element, name, value);
  }
  return append(element, children);
}

/** Make an SVG element of attributes, `on` and `style` (an object) as in `h`. */
export function svg(tag, attributes, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined) continue;
    if (name === "on") listen(element, value);
    else if (name === "style") setStyle(element, value);
    else setAttribute(element, name, value);
  }
  return append(element, children);
}

function append(element, children) {
  for (const child of children.flat(Infinity)) {
    if (child !== null && child !== undefined && child !== false) element.append(child);
  }
  return element;
}

// A style attribute would be refused by the content security policy; the properties are not.
function setStyle(element, style) {
  for (const [name, value] of Object.entries(style)) {
    if (name.startsWith("--")) element.style.setProperty(name, value);
    else element.style[name] = value;
  }
}

function setAttribute(element, name, value) {
  if (value === false && !name.startsWith("aria-")) return;
  element.setAttribute(name, value === true && !name.startsWith("aria-") ? "" : String(value));
}

function listen(element, listeners) {
  for (const [event, listener] of Object.entries(listeners)) element.addEventListener(event, listener);
}

/** Remove all children; returns the node. */
export function clear(node) {
  node.replaceChildren();
  return node;
}

const styles = new Map();

/** Link `/playground/css/<name>.css` once; the promise resolves when it applies. */
export function useStyle(name) {
  if (!styles.has(name)) {
    styles.set(
      name,
      new Promise((resolve, reject) => {
        const failed = () => {
          styles.delete(name);
          link.remove();
          reject(new Error(`The style sheet ${name}.css could not be loaded.`));
        };
        const link = h("link", { rel: "stylesheet", href: `/playground/css/${name}.css`, on: { load: resolve, error: failed } });
        document.head.append(link);
      }),
    );
  }
  return styles.get(name);
}

/** Say a text to screen readers, politely. */
export function announce(text) {
  const region = document.getElementById("announcer");
  region.textContent = "";
  // The same text twice is news again only if the region was seen empty in between.
  requestAnimationFrame(() => {
    region.textContent = text;
  });
}

let counter = 0;

/** An id that no other element of this page has. */
export function uniqueId(prefix) {
  counter += 1;
  return `${prefix}-${counter}`;
}
