#!/usr/bin/env python
"""Ask the Python Packaging Advisory Database for known vulnerabilities in constraints.txt.

pip-audit is installed into a virtual environment that is thrown away, so nothing of it stays.
Usage: python scripts/audit.py

Exits with 0 if every version was looked up and none is known to be vulnerable, with 4 if one is,
and with 1 if some could not be looked up, without network say: then nothing is known of them, and
https://osv.dev/list?ecosystem=PyPI can be asked for each line by hand.
"""

import json
import subprocess
import sys
import tempfile
import venv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

CONSTRAINTS = Path(__file__).resolve().parent.parent / "constraints.txt"


def verdict(report: Mapping[str, Any]) -> tuple[int, list[str]]:
    """What pip-audit's JSON comes to: an exit code, and lines to print.

    It counts what it could not look up as harmless; here that is a failure.
    """
    found, unknown = [], []
    for package in report["dependencies"]:
        if "skip_reason" in package:
            unknown.append(package["name"])
        for one in package.get("vulns", ()):
            fixed = ", ".join(one["fix_versions"]) or "no version yet"
            found.append(f"{package['name']} {package['version']}: {one['id']}, mended in {fixed}")
    lines = sorted(found)
    if unknown or not report["dependencies"]:
        lines.append(
            f"the vulnerability database could not be asked for {len(unknown)} of "
            f"{len(report['dependencies'])} packages, so nothing is known of them"
        )
    if not lines:
        lines.append(f"no known vulnerability in {len(report['dependencies'])} packages")
    return 4 if found else int(bool(unknown) or not report["dependencies"]), lines


def main() -> int:
    """Install pip-audit, ask, tell."""
    with tempfile.TemporaryDirectory(prefix="bnlab-audit-") as folder:
        venv.create(folder, with_pip=True)
        python = str(Path(folder) / ("Scripts" if sys.platform == "win32" else "bin") / "python")
        pip = [
            python,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "pip-audit",
        ]
        if subprocess.run(pip, check=False).returncode:
            print("pip-audit cannot be installed, so nothing was looked up", file=sys.stderr)
            return 1
        words = ["-r", str(CONSTRAINTS), "--no-deps", "--disable-pip", "--format", "json"]
        asked = subprocess.run(
            [python, "-m", "pip_audit", "--progress-spinner", "off", *words],
            capture_output=True,
            text=True,
            check=False,
        )
    try:
        report = json.loads(asked.stdout)
    except json.JSONDecodeError:
        last = asked.stderr.strip().rpartition("\n")[2]
        print(f"the vulnerability database could not be asked: {last}", file=sys.stderr)
        return 1
    code, lines = verdict(report)
    print("\n".join(lines))
    return code


if __name__ == "__main__":
    sys.exit(main())
