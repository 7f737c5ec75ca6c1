// Light or dark: as the system has it, until somebody chooses otherwise. The choice is a cookie, so that the
// server writes it into the page and nothing flashes.

const YEAR_S = 31_536_000;

/** @returns {"light" | "dark"} what the page shows now */
export function schemeOf(/** @type {Document} */ document) {
  const chosen = document.documentElement.dataset.scheme;
  if (chosen === "light" || chosen === "dark") return chosen;
  return matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
}

/**
 * Lets a reader switch; whoever draws hears the event `scheme`.
 * @param {Document} document
 */
export function setUpScheme(document) {
  const button = /** @type {HTMLButtonElement} */ (document.getElementById("scheme"));
  const root = `${document.body.dataset.root}/`;
  const tell = () => {
    const other = schemeOf(document) === "dark" ? "light" : "dark";
    button.textContent = other === "dark" ? "Dark colours" : "Light colours";
    document.dispatchEvent(new Event("scheme"));
  };
  button.addEventListener("click", () => {
    const other = schemeOf(document) === "dark" ? "light" : "dark";
    document.documentElement.dataset.scheme = other;
    document.cookie = `fl_scheme=${other}; path=${root}; max-age=${YEAR_S}; samesite=strict`;
    tell();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", tell);
  button.hidden = false;
  tell();
}
