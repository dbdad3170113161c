"""Do pages speak of their own controls where commands speak of options?"""

import pytest

from dashboards.controls import on_page


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (
            "a/b#3 was trained once: a single value cannot be compared. `hpo best 'a b' --against 3 --replicates 12` "
            "trains it again on other seeds",
            "a/b#3 was trained once: a single value cannot be compared. “The best” of its study trains contenders "
            "again on other seeds",
        ),
        ("6 could, or --replicates", "6 could, or replicates"),
        ("Give --metric NAME (and --direction), or", "Give metric NAME (and direction), or"),
        ("by --trial: 1 (`hpo front x` shows them)", "by trial: 1 (“The front” of the study shows them)"),
        ("`hpo history import table x --task t` reads --source", "`hpo history import table x --task t` reads source"),
        ("started with one by --executor ray", "started with one by --executor ray"),
        ("study 'x--trial' and --trials-of", "study 'x--trial' and --trials-of"),
    ],
)
def test_options_are_fields_and_commands_are_pages(said: str, shown: str) -> None:
    assert on_page(said) == shown
