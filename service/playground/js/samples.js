/** The sample pictures that come with the page, by what a model looks at. Their origins: samples/README.md. */

const FOLDERS = {
  mnist: ["seven.png", "two.png", "four.png", "nine.png", "zero_on_paper.jpg"],
  "fashion-mnist": ["ankle_boot.png", "pullover.png", "trouser.png", "shirt.png", "ankle_boot_on_paper.jpg"],
  cifar10: ["airplane.jpg", "bird.jpg", "dog.jpg", "frog.jpg", "ship.jpg", "truck.jpg"],
  photos: ["cat.jpg", "coffee.jpg", "astronaut.jpg", "rocket.jpg"],
};

/** The samples of a folder as `{name, url}`. */
export function samplesOf(folder) {
  return FOLDERS[folder].map((name) => ({ name, url: `/playground/samples/${folder}/${name}` }));
}

/** Samples for a classifier: its own where it is one of the shipped, else photographs for colour and garments for grey. */
export function samplesForClassifier(name, isGrey) {
  if (name !== "photos" && Object.hasOwn(FOLDERS, name)) return samplesOf(name);
  return samplesOf(isGrey ? "fashion-mnist" : "photos");
}
