/** Anomaly scores of the pictures so far on one line, so that a number means something beside others. */

import { h } from "../dom.js";

const MOST = 10;
const LEAST_SPAN = 200;

/** `add({name, url, score})` places a picture on the line, the newest on top. */
export function scoreScale() {
  const list = h("ul", { class: "scale-line", "aria-label": "Scores so far" });
  const ends = h("div", { class: "scale-ends muted" });
  const element = h("div", { class: "scale" }, list, ends);
  let entries = [];

  function add(entry) {
    entries = [...entries.filter(({ url }) => url !== entry.url), entry].slice(-MOST);
    const scores = entries.map(({ score }) => score);
    const middle = (Math.min(...scores) + Math.max(...scores)) / 2;
    const span = Math.max(LEAST_SPAN, Math.max(...scores) - Math.min(...scores));
    const low = middle - span / 2;
    list.replaceChildren(...entries.map((one, index) => mark(one, (one.score - low) / span, index === entries.length - 1)));
    ends.replaceChildren(h("span", {}, "← like what it was trained on"), h("span", {}, "strange →"));
  }

  return { element, add };
}

function mark({ name, url, score }, share, isNewest) {
  const words = `${name}: ${score.toFixed(0)} nats`;
  const element = h("li", { class: isNewest ? "scale-mark is-newest" : "scale-mark", title: words }, h("img", { src: url, alt: words, width: 32, height: 32 }));
  element.style.setProperty("--share", share.toFixed(4));
  return element;
}
