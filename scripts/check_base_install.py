"""Check an environment with the base install alone: light, complete, and the command works.

Run by the Python of that environment: ``build/base/bin/python scripts/check_base_install.py demo``.
"""

import importlib
import json
import pkgutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

LAB_ONLY = ("torch", "librosa", "sklearn", "pandas", "matplotlib", "lightning_fabric", "onnx")
EXTRA_PARTS = ("undertone.lab", "undertone.cli.lab", "undertone.serve.")


def import_use_floor() -> list[str]:
    """Import every module of the use floor, and return their names."""
    import undertone

    names = [
        module.name
        for module in pkgutil.walk_packages(undertone.__path__, "undertone.", onerror=lambda _: None)
        if not module.name.startswith(EXTRA_PARTS) and not module.name.endswith("__main__")
    ]
    for name in names:
        importlib.import_module(name)
    return names


def run_undertone(*arguments: str) -> str:
    """Run the installed command and return what it printed; its failure is this script's failure."""
    command = [str(Path(sys.executable).parent / "undertone"), *arguments]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if result.returncode:
        sys.exit(f"{result.stdout}\n{' '.join(command)} failed with exit code {result.returncode}")
    return result.stdout


def main() -> int:
    """Print what was checked; the first thing that is wrong ends the run."""
    if installed := [name for name in LAB_ONLY if find_spec(name)]:
        sys.exit(f"the base install brought {', '.join(installed)}: they belong to the lab")
    print(f"not installed, as it should be: {', '.join(LAB_ONLY)}")
    print(f"{len(import_use_floor())} modules of the use floor import")
    run_undertone("--help")
    if not json.loads(run_undertone("predict", sys.argv[1], "--json")):
        sys.exit(f"undertone predict {sys.argv[1]} --json printed no prediction")
    print(f"undertone predict {sys.argv[1]} works")
    return 0


if __name__ == "__main__":
    sys.exit(main())
