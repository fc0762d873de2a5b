"""What blocks and examples are run with: the commands of this checkout, whatever is installed."""

import os
import sys
import tomllib

import pytest
from pages import ROOT


@pytest.fixture(scope="session")
def environment(tmp_path_factory):
    """Variables with which `python` and `pini` are those of this checkout, and nothing is fetched."""
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"].get("scripts", {})
    if "pini" not in scripts:
        pytest.skip("pyproject.toml has no command pini")
    module, _, function = scripts["pini"].partition(":")
    call = f"import sys; from {module} import {function} as pini; sys.exit(pini())"
    folder = tmp_path_factory.mktemp("bin")
    for name, arguments in {"python": "", "pini": f"-c '{call}'"}.items():
        (folder / name).write_text(f'#!/bin/sh\nexec {sys.executable} {arguments} "$@"\n')
        (folder / name).chmod(0o755)
    own = {"PATH": f"{folder}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    return os.environ | own
