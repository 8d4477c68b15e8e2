/** The light and the dark look: the system's, until a person chooses one. */

const NAME = "hotplate-theme";

function remembered() {
  try {
    return localStorage.getItem(NAME);
  } catch {
    return null; // storage is switched off
  }
}

function remember(theme) {
  try {
    localStorage.setItem(NAME, theme);
  } catch {
    // Then it holds until the page is left.
  }
}

/** Let a button switch between light and dark. */
export function themeButton(button) {
  const system = matchMedia("(prefers-color-scheme: dark)");
  const current = () => document.documentElement.dataset.theme ?? (system.matches ? "dark" : "light");

  function show() {
    const other = current() === "dark" ? "light" : "dark";
    button.textContent = other === "dark" ? "Dark" : "Light";
    button.setAttribute("aria-label", `Switch to the ${other} theme`);
  }

  const chosen = remembered();
  if (chosen === "dark" || chosen === "light") document.documentElement.dataset.theme = chosen;
  button.addEventListener("click", () => {
    const next = current() === "dark" ? "light" : "dark";
    document.documentElement.dataset.theme = next;
    remember(next);
    show();
  });
  system.addEventListener("change", show);
  show();
}
