/** What a card says in a few words: score, data, parameters, device. It draws nothing. */

const whole = new Intl.NumberFormat("en");

const isTest = (entry) => entry.split === "test";
const percent = (value) => `${(value * 100).toFixed(Math.round(value * 1e4) % 10 ? 2 : 1)} %`;

// Of a model's evaluation, the entry that tells most, by task; the first that is there counts.
const SCORES = [
  { metric: "accuracy", fits: isTest, value: percent, words: (entry) => `right of ${whole.format(entry.count)} test pictures` },
  { metric: "bits_per_byte", fits: isTest, value: (value) => value.toFixed(3), words: () => "bits per byte of unseen novels" },
  {
    metric: "share of pictures that the classifier calls by their label",
    fits: () => true,
    value: percent,
    words: () => "recognised by the classifier",
  },
  {
    metric: "gatys_k_adam",
    fits: (entry) => entry.split === "held-out",
    value: (value) => value.toFixed(0),
    words: () => "steps of optimisation to match it",
  },
];

/** The score of a manifest, `{value, words}`; null where it has none that is known. */
export function scoreOf(manifest) {
  const evaluation = manifest.evaluation ?? [];
  for (const { metric, fits, value, words } of SCORES) {
    const entry = evaluation.find((one) => one.metric === metric && fits(one));
    if (entry) return { value: value(entry.value), words: words(entry) };
  }
  return null;
}

/** The rows of a card's facts, `[name, text]`; what a manifest does not say is left out. */
export function factsOf(card) {
  const { manifest } = card;
  const dataset = manifest.evaluation?.[0]?.dataset;
  const parameters = manifest.training?.parameters;
  return [
    ["Data", dataset],
    ["Parameters", parameters ? whole.format(parameters) : null],
    ["Device", card.device],
  ].filter(([, text]) => text);
}
