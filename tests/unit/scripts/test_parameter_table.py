"""The README's table of parameters is the one that the request models give."""

from scripts.parameter_table import table, updated
from tests.serving import ROOT


def test_the_table_in_the_readme_is_up_to_date() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    assert updated(readme) == readme, "run scripts/parameter_table.py"


def test_the_table_says_what_becomes_of_a_parameter() -> None:
    rows = dict(line[3:].split("` | ", 1) for line in table().splitlines()[2:])
    assert rows["tools"].startswith("honoured | refused | ")
    assert rows["prompt"].startswith(" | honoured | ")
    assert rows["user"].startswith("neutral | neutral | ")
    assert rows["store"] == "refused | refused | refused unless it is `false` |"
    assert "0 to 2; default 0.8" in rows["temperature"]
    assert all(row.count(" | ") == 2 and row.endswith(" |") for row in rows.values())
