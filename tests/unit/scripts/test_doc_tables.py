"""The documentation's tables are those that the code makes."""

from scripts.doc_tables import TABLES, documents, updated
from scripts.parameter_table import table


def test_the_tables_are_there_once_and_right() -> None:
    texts = [path.read_text("utf-8") for path in documents()]
    for name in TABLES:
        assert sum(text.count(f"<!-- {name}: begin -->") for text in texts) == 1
    assert [updated(text) for text in texts] == texts, "run python -m scripts.doc_tables"


def test_a_wrong_table_is_replaced() -> None:
    begin, end = "<!-- settings: begin -->\n", "<!-- settings: end -->\n"
    text = updated(f"before\n{begin}wrong\n{end}behind\n")
    assert text.startswith(f"before\n{begin}**The model**\n\n| variable | default | |\n")
    assert "| `PORT` | 8000 | port to listen on; 0 takes a free one |\n" in text
    assert "| `MIN_FREE_MEMORY` | 256M | " in text and "wrong" not in text
    assert text.endswith(f"|\n{end}behind\n")


def test_the_table_says_what_becomes_of_a_parameter() -> None:
    rows = dict(line[3:].split("` | ", 1) for line in table().splitlines()[2:])
    assert rows["tools"].startswith("honoured | refused | ")
    assert rows["prompt"].startswith(" | honoured | ")
    assert rows["user"].startswith("neutral | neutral | ")
    assert rows["store"] == "refused | refused | refused unless it is `false` |"
    assert "0 to 2; default 0.8" in rows["temperature"]
    assert all(row.count(" | ") == 2 and row.endswith(" |") for row in rows.values())
