"""The verb `open`: MLflow's pages of a study, from a server that is started where there is none."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import webbrowser

from hidfd.config.storage import redacted
from tune.errors import TrackingError
from tune.inspection import open_study_of
from tune.mlflow_server import server_of, wait_for_its_end
from tune.report.champion import champion_of
from tune.report.commands import is_server, tracking_address
from tune.tracking.connection import tracking_errors
from tune.tracking.pages import Pages, pages_of


def open_pages(options: argparse.Namespace) -> None:
    """Show the study in MLflow: all runs, best first, and the champion's; start a server where there is none."""
    study = open_study_of(options)
    snapshot, uri = study.snapshot(), study.file.storage.tracking
    champion = champion_of(snapshot)
    with tracking_errors(uri):
        pages = pages_of(uri, snapshot.name, None if champion is None else champion.student.key)
    if pages is None:
        raise TrackingError(
            f"{redacted(tracking_address(uri))}: MLflow has nothing of {snapshot.name!r} yet; a study writes there "
            f"from its first task on: {snapshot.command}"
        )
    if is_server(uri):
        _show(redacted(uri.rstrip("/")), pages, options)
        return
    for name in ("SIGTERM", "SIGHUP"):
        signal.signal(getattr(signal, name), lambda *_: sys.exit(0))  # so that the server ends too
    _say("starting MLflow, which takes some ten seconds", options)
    with contextlib.suppress(KeyboardInterrupt), tracking_errors(uri), server_of(uri) as server:
        _show(server.address, pages, options)
        if server.is_new:
            _say("Ctrl-C ends the server", options)
            wait_for_its_end(server)
        else:
            _say(f"the server ran already, as process {server.pid}", options)


def _show(server: str, pages: Pages, options: argparse.Namespace) -> None:
    """Print the addresses, and open the champion's page, or else that of all runs, where there is a screen."""
    view = f"{server}/{pages.view}"
    champion = None if pages.champion is None else f"{server}/{pages.champion}"
    if options.json:
        print(json.dumps({"runs": view, "champion": champion}), flush=True)
    else:
        print(f"all runs, best first: {view}")
        print(f"champion: {champion or 'none yet'}", flush=True)
    has_screen = sys.platform == "darwin" or {"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys()
    if has_screen and not options.no_browser:
        webbrowser.open(champion or view)


def _say(words: str, options: argparse.Namespace) -> None:
    if not options.json:
        print(words, file=sys.stderr, flush=True)
