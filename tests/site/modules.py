"""The modules that build the documentation site, which are scripts and in no package."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

from tests.e2e.pages import ROOT

FOLDER = ROOT / "docs" / "site"


def site_module(name: str) -> ModuleType:
    """One of them, by name."""
    sys.path.insert(0, str(FOLDER))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(FOLDER))
