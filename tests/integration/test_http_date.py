"""The server sleeps while nothing happens, and still knows what time it is."""

import time
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime

from tests.serving import DEADLINE_S, Server


def test_every_answer_has_the_time_of_day(echo_server: Server) -> None:
    def date() -> datetime:
        return parsedate_to_datetime(echo_server.http.get("/health").headers["date"])

    deadline = time.monotonic() + DEADLINE_S
    first = now = date()
    while now == first:
        assert time.monotonic() < deadline, "the date header stands still"
        now = date()
    assert abs((datetime.now(timezone.utc) - now).total_seconds()) < 5
