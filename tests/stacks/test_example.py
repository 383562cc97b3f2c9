"""The example of Hugging Face's detector, against a server, on drawn scenes."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

pytest.importorskip("transformers", reason="transformers is not installed: make stacks-test")

from tests.support.servers import serving

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "hf_rtdetr.py"


def test_example(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "tokens.png"
    names = runpy.run_path(str(EXAMPLE))
    with serving() as server:
        # One process: a test's own threads are beside it already.
        arguments = names["hf"].TrainingArguments
        monkeypatch.setattr(
            names["hf"],
            "TrainingArguments",
            lambda *a, **options: arguments(*a, **{**options, "dataloader_num_workers": 0}),
        )
        names["main"](server=server.address, data=None, steps=12, out=out)
    printed = capsys.readouterr().out
    rows = re.findall(r"^(\d+)% of the tokens kept: ([\d.]+)% of the objects", printed, re.M)
    assert [keep for keep, _ in rows] == ["10", "30", "50"]
    shares = [float(share) for _, share in rows]
    assert shares == sorted(shares)
    assert 50 < shares[-1] <= 100
    assert out.stat().st_size > 10_000
    assert len(EXAMPLE.read_text(encoding="utf-8").splitlines()) <= 120
