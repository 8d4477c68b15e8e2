/** The page of text generators: write with one, see how it reads, and hold two against each other. */

import { card as modelCard } from "../api.js";
import { h, useStyle } from "../dom.js";
import { pageHead } from "../page_head.js";
import { modelsOf } from "../tasks.js";
import { attentionPanel } from "../write/attention.js";
import { comparePanel, kindText } from "../write/compare.js";
import { editingPanel } from "../write/editing.js";
import { samplingSettings } from "../write/settings.js";
import { tokensPanel } from "../write/tokens.js";

export const title = "Write";

const TASK = "text-generation";
const CAVEAT = "It repeats what its training texts say, and how they say it.";

// What was written stays when one goes to another model and back.
let draft = null;

export default async function page(root, { model, models, signal }) {
  const [{ manifest }] = await Promise.all([modelCard(model, { signal }), useStyle("write")]);
  if (signal.aborted) return;

  const { context } = manifest.language;
  const settings = samplingSettings({ context });
  const names = modelsOf(models, TASK).map(({ id }) => id);
  const tokens = tokensPanel({ model, context, signal, onPick: (text) => editing.append(text) });
  const attention = attentionPanel({ model, manifest, signal });
  const editing = editingPanel({ model, context, settings, signal, onText: changed });

  function changed(text) {
    draft = text;
    if (editing.isWriting()) return; // a text that grows is read once it is whole
    tokens.read(text);
    attention.read(text);
  }

  const text = `${kindText(manifest)}. ${CAVEAT}`;
  root.append(
    pageHead({ title, text, model, models, task: TASK }),
    h(
      "div",
      { class: "write-page" },
      h("div", { class: "layout" }, editing.element, tokens.element),
      attention.element,
      names.length > 1 ? comparePanel({ model, names, settings, text: editing.text, signal }).element : null,
    ),
  );
  editing.start(draft);
}
