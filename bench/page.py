"""Pages whose tables come of records: texts between markers."""

import re


def filled(page: str, texts: dict[str, str]) -> str:
    """Return a page with texts between their markers: `<!-- bench: name -->` … `<!-- /bench -->`.

    Raises:
        ValueError: If the page has no place for a text.
    """
    for name, text in texts.items():
        marked = re.compile(f"(<!-- bench: {name} -->\n).*?(<!-- /bench -->)", re.DOTALL)
        if not marked.search(page):
            raise ValueError(f"the page has no place for '{name}': <!-- bench: {name} --> … <!-- /bench -->")
        page = marked.sub(lambda found, text=text: f"{found[1]}\n{text}\n\n{found[2]}", page)  # type: ignore[misc]
    return page
