"""Parts that all pages share: each page is one file in one style that loads nothing."""

from __future__ import annotations

import base64
import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from hidfd.formatting import plural


@dataclass(frozen=True)
class Tile:
    """A number at the top of a page.

    Attributes:
        name: of the number.
        value: as it is shown.
        meaning: one sentence on what it says, and what it does not.
        error: its standard error as it is shown, if it has one.
    """

    name: str
    value: str
    meaning: str
    error: str | None = None


@dataclass(frozen=True)
class Picture:
    """A figure with its title and caption.

    Attributes:
        title: what it shows.
        caption: one plain sentence on how to read it.
        html: an inline SVG, or an `img` that carries its data.
    """

    title: str
    caption: str
    html: Markup


def render(template: str, *, about: Mapping[str, Any], navigation: Markup, **content: Any) -> str:
    """Render a page as HTML.

    Args:
        template: `<package>/<file>.html`, which extends `hidfd/report/base.html`.
        about: what the page says of itself to other pages, plain JSON (see `hidfd.report.links.about`).
        navigation: its links to other pages.
        content: its other variables; a missing one is an error.
    """
    package = template.split("/", 1)[0]
    loaders = {name: jinja2.PackageLoader(name, ".") for name in {"hidfd", package}}
    environment = jinja2.Environment(
        loader=jinja2.PrefixLoader(loaders),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["plural"] = plural
    environment.globals |= {"about": json.dumps(about), "navigation": navigation}  # macros of the base need them, too
    return environment.get_template(template).render(**content)


def write_page(path: Path, html: str | bytes) -> Path:
    """Write a page whole or not at all, so that a reader never sees half of one, whoever else writes it meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        unfinished.write_bytes(
            html if isinstance(html, bytes) else html.encode(errors="replace")
        )  # a name may be no text
        return unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def image(path: Path) -> Markup:
    """Embed a PNG file in an `img`, its pixels kept sharp."""
    data = base64.b64encode(path.read_bytes()).decode()
    return Markup('<img class="pixels" alt="{}" src="data:image/png;base64,{}">').format(path.stem, data)
