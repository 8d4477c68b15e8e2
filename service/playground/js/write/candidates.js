/** The likeliest next tokens as bars, the one that stands there marked. */

import { clear, h } from "../dom.js";
import { percent, visible } from "./reading.js";

/** `onPick(text)`, where given to `show`, makes each candidate a button. */
export function candidateList() {
  const title = h("h3", { class: "candidates-title" });
  const list = h("ol", { class: "candidates" });
  const element = h("div", { class: "candidates-box" }, title, list);

  /** `here` is {text, probability} of the token that stands there, with a probability where it is known. */
  function show(candidates, { heading, here = null, onPick = null }) {
    title.textContent = heading;
    const rows = candidates.map(({ text, probability }) => ({ text, probability, isHere: text === here?.text }));
    if (here && !rows.some((row) => row.isHere)) rows.push({ ...here, isHere: true, isLate: true });
    const most = Math.max(...rows.map((row) => row.probability ?? 0));
    // Whoever picks one after the other by keyboard stays in the list.
    const at = [...list.children].findIndex((child) => child.contains(document.activeElement));
    clear(list).append(...rows.map((row) => line(row, most, onPick)));
    if (at >= 0) list.children[Math.min(at, rows.length - 1)]?.querySelector("button")?.focus();
  }

  return { element, show };
}

function line({ text, probability, isHere, isLate }, most, onPick) {
  const bar = h("span", { class: "candidate-fill" });
  bar.style.width = `${((probability ?? 0) / most) * 100}%`;
  const label = onPick
    ? h("button", { type: "button", class: "candidate-pick", title: "Append to the text", on: { click: () => onPick(text) } })
    : h("span", { class: "candidate-label" });
  label.append(visible(text));
  const kind = `candidate${isHere ? " is-here" : ""}${isLate ? " is-late" : ""}`;
  const share = probability === undefined ? "not among these" : percent(probability);
  const mark = isHere ? h("span", { class: "visually-hidden" }, " (in the text)") : null;
  return h("li", { class: kind }, label, h("span", { class: "candidate-bar" }, bar), h("span", { class: "candidate-share" }, share, mark));
}
