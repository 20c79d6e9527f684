"""One log format for the gateway and its workers."""

import logging


def configure_logging(level: str) -> None:
    """Send records of ``level`` and above to standard error.

    Args:
        level: name of a `logging` level, e.g. ``INFO``.
    """
    logging.basicConfig(
        level=level,
        format="%(asctime)s %(levelname)s %(processName)s %(name)s: %(message)s",
        force=True,
    )
