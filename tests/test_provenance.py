import subprocess
from pathlib import Path

import pytest

from bnlab.training import provenance


def test_a_checkout_is_dirty_with_a_change_or_a_new_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*words: str) -> None:
        who = ("-c", "user.name=x", "-c", "user.email=x@example.org")
        subprocess.run(["git", "-C", str(tmp_path), *who, *words], check=True, capture_output=True)

    module = tmp_path / "__init__.py"
    module.write_text("one = 1\n")
    git("init")
    monkeypatch.setattr(provenance, "PACKAGE", tmp_path)
    assert provenance.git_state() == provenance.GitState(None, False, None)

    git("add", "__init__.py")
    git("commit", "-m", "first")
    assert not provenance.git_state().dirty
    (tmp_path / "new.py").write_text("two = 2\n")
    assert provenance.git_state().dirty
    (tmp_path / "new.py").unlink()
    module.write_text("one = 3\n")
    state = provenance.git_state()
    assert state.dirty
    assert "one = 3" in (state.diff or "")
