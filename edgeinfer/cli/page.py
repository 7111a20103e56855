"""The page beside a command that runs a node."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from typing import TYPE_CHECKING

from edgeinfer.config import Config
from edgeinfer.node import Node

if TYPE_CHECKING:
    from edgeinfer.web.web import Web


@contextmanager
def page_of(config: Config) -> Iterator[Web | None]:
    """What `[web]` asks for, until the end; None where it does not."""
    if config.web is None:
        yield None
        return
    from edgeinfer.web.web import Web  # Loads what a server needs.

    with closing(Web(config.web)) as page:
        yield page


def node_with(page: Web | None) -> Callable[..., Node]:
    """Node, with the sinks through which the page sees its pipelines."""
    return Node if page is None else partial(Node, sinks_for=page.sinks_for)
