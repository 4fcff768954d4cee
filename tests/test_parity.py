"""Tables of scores of one detector on two devices are compared image by image."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import pytest

from timing import parity

if TYPE_CHECKING:
    from tests.conftest import RunCli


@pytest.fixture
def cpu(tmp_path: Path) -> Path:
    path = tmp_path / "cpu.csv"
    scores = pd.DataFrame({"image": ["a.png", "b.png", "c.png"], "label": [0, 1, 1], "score": [0.1, 0.49, 0.9]})
    scores.assign(model="mini", benchmark="demo").to_csv(path, index=False)
    return path


def change(path: Path, name: str, **columns: list[object]) -> Path:
    other = path.with_name(name)
    pd.read_csv(path).assign(**columns).to_csv(other, index=False)
    return other


def test_differences_are_shown_and_held_to_the_tolerance(run_cli: RunCli, cpu: Path) -> None:
    gpu = change(cpu, "gpu.csv", score=[0.1, 0.51, 0.9])
    done = run_cli(parity.main, cpu, gpu, "--tolerance", 0.03)
    assert done.code == 0, done.err
    assert "3 images, largest difference of P(fake) 0.0200, mean 0.0067; 1 on the other side of 0.5" in done.out
    refused = run_cli(parity.main, cpu, gpu, "--tolerance", 0.01).only_error()
    assert "b.png has P(fake) 0.5100 by mini" in refused
    assert "has 0.4900; the tolerance is 0.01" in refused


def test_an_image_that_one_table_lacks_is_refused(run_cli: RunCli, cpu: Path) -> None:
    gpu = change(cpu, "gpu.csv", image=["a.png", "b.png", "d.png"])
    assert "2 images have a score in one table only, such as c.png" in run_cli(parity.main, cpu, gpu).only_error()
