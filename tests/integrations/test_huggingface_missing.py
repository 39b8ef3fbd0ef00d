"""What is said where ``transformers`` is not installed."""

from __future__ import annotations

import importlib
import sys

import pytest

import nndiag


def test_the_message_holds_the_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.setitem(sys.modules, "transformers.trainer_callback", None)
    monkeypatch.delitem(sys.modules, "nndiag.integrations.huggingface", raising=False)
    with pytest.raises(nndiag.MissingDependencyError, match=r"pip install 'transformers\[torch\]'"):
        importlib.import_module("nndiag.integrations.huggingface")
