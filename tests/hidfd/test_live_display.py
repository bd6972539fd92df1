"""A table that is drawn on terminals only."""

import io

from rich.console import Console

from hidfd.live_display import LiveDisplay


def test_table_is_drawn_on_a_terminal_and_gone_afterwards() -> None:
    stream = io.StringIO()
    display = LiveDisplay(Console(file=stream, force_terminal=True, highlight=False, width=40), is_live=True)
    with display:
        assert display.is_live
        display.draw("generator-0  30,000 images")
    assert "generator-0  30,000 images" in stream.getvalue()
    assert stream.getvalue().endswith("\x1b[2K"), "the line is cleared at the end"


def test_nothing_is_drawn_elsewhere() -> None:
    stream = io.StringIO()
    with LiveDisplay(Console(file=stream), is_live=False) as display:
        assert not display.is_live
        display.draw("generator-0  30,000 images")
    assert stream.getvalue() == ""
