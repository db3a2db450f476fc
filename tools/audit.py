"""Look for known faults in the packages of constraints/current.txt: `make audit`.

    python tools/audit.py FOLDER

Asks PyPI's advisories with pip-audit, from an environment of its own in FOLDER. Where they cannot
be reached it says so and succeeds; it fails for a known fault that a newer version mends.
"""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import install

SECONDS = 300


def main(folder: Path) -> None:
    """Audit the pinned packages, and say what was found."""
    python = install.create(folder)
    if not install.succeeds(install.pip(python, "install", "pip-audit")):
        install.say("NOT AUDITED: pip-audit cannot be installed here")
        return
    command = [python, "-m", "pip_audit", "--requirement", install.CONSTRAINTS, "--no-deps",
               "--disable-pip", "--progress-spinner", "off", "--format", "json"]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
        report = json.loads(done.stdout)
    except (subprocess.TimeoutExpired, json.JSONDecodeError):
        report = {"dependencies": []}
    message, is_mendable = verdict(report)
    install.say(message)
    sys.exit(is_mendable)


def verdict(report: Mapping[str, Any]) -> tuple[str, bool]:
    """Return what pip-audit's report says, and whether a newer version mends a fault."""
    packages = report["dependencies"]
    audited = [package for package in packages if "vulns" in package]
    if not audited:
        return (
            f"NOT AUDITED: no advisories of {len(packages)} packages can be reached from here",
            False,
        )
    faults = [(package, fault) for package in audited for fault in package["vulns"]]
    listed = [
        f"{package['name']} {package['version']}: {fault['id']}, "
        f"mended in {', '.join(fault['fix_versions']) or 'no version yet'}"
        for package, fault in faults
    ]
    count = f"{len(audited)} of {len(packages)} packages audited, {len(faults)} known faults"
    return f"{count}: {'; '.join(listed)}".removesuffix(": "), any(
        f["fix_versions"] for _, f in faults
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
