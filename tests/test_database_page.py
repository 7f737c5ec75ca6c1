"""docs/database.md says what there is: its commands, its figure and its lists of columns."""

import pytest

from tests.database_page import BLOCK, PAGE, hearts_at_hand, questions, run_block, without_passing
from tests.test_figures import FIGURES, loaded


@pytest.mark.timeout(240)
def test_commands_print_what_the_page_shows() -> None:
    with hearts_at_hand():
        for block in BLOCK.findall(questions(PAGE.read_text("utf-8"))):
            found = run_block(block)
            assert without_passing(found) == without_passing(block), "run: python -m tests.database_page"


def test_twelve_questions_at_least_have_an_answer() -> None:
    sections = questions(PAGE.read_text("utf-8")).split("\n### ")[1:]
    assert len(sections) >= 12
    assert [section.splitlines()[0] for section in sections if "\n$ fl db" not in section] == []


def test_figure_and_lists_are_made_from_the_schema_as_it_stands() -> None:
    module = loaded(FIGURES / "database.py")
    assert (FIGURES / "database.svg").read_text("utf-8") == module.draw(), (
        "run: python docs/figures/database.py"
    )
    text = PAGE.read_text("utf-8")
    assert text == module.page(text), "run: python docs/figures/database.py"
