"""Lazy: names of a package whose modules are imported when they are first used.

JAX and what stands on it take seconds to import. Help, and errors about paths, keys and options,
need none of it.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any


def lazily(package: str, file: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` of a package that imports its names for type checkers alone.

    The imports under its ``if TYPE_CHECKING:`` are read from the file, so that they stand there
    once. A name must not be that of a module of the package.

    Args:
        package: its ``__name__``.
        file: its ``__file__``.

    Raises:
        AttributeError: from ``__getattr__``, for any other name.

    Example:
        >>> import zoogen.store
        >>> get, names = lazily("zoogen.store", zoogen.store.__file__)
        >>> get("ZooReader"), names()[:2]
        (<class 'zoogen.store.reader.ZooReader'>, ['Cohort', 'LabelTables'])
    """
    blocks = ast.parse(Path(file).read_text(encoding="utf-8")).body
    homes = {
        alias.name: node.module
        for block in blocks
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in block.body
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    }

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        home = homes[name]
        whole = home == package  # ``from package import module``
        value = import_module(f"{home}.{name}") if whole else getattr(import_module(home), name)
        setattr(sys.modules[package], name, value)
        return value

    return get, lambda: sorted(homes)


class Deferred:
    """Functions of a module, which is imported when one of them is called.

    Example:
        >>> Deferred("math").sqrt(9.0)
        3.0
    """

    def __init__(self, module: str) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return partial(_call, self._module, name)


def _call(module: str, name: str, *arguments: Any, **named: Any) -> Any:
    return getattr(import_module(module), name)(*arguments, **named)
