"""The templates of the pages, which lie beside this module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


def render_page(template: str, filters: Mapping[str, Any], **content: Any) -> str:
    """Renders an HTML template; text is escaped, and a name that the template uses and nobody gave is an error."""
    environment = Environment(
        loader=PackageLoader("mmface.evaluate.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    environment.filters |= filters
    return environment.get_template(template).render(**content)
