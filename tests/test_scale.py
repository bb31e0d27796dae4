import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCALE = Path(__file__).parent.parent / "scripts" / "scale.py"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="forks")
@pytest.mark.parametrize("kind", ["flock", "lease"])
def test_four_workers_claim_forty_cells_once_each_and_what_that_costs_is_told(
    tmp_path: Path, kind: str
) -> None:
    words = ["--cells", "40", "--arms", "4", "--workers", "4", "--locks", kind]
    words += ["--folder", str(tmp_path), "--out", str(tmp_path / "out.json")]
    done = subprocess.run(
        [sys.executable, SCALE, *words],
        env={**os.environ, "PYTHONPATH": str(SCALE.parent.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out.json").read_text())
    told = found["workers told"]
    assert sum(one["done"] for one in told) == 40
    assert all(one["times"]["survey"] >= 2 for one in told)
    assert sum(one["times"].get("record", 0) for one in told) == 40
    assert min(found["compare"]["mebibytes"], found["study status"]["mebibytes"]) > 10
    assert done.stdout.startswith("40 cells, 4 arms, 4 workers")
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]
