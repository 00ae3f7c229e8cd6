"""Check a built wheel: small enough, the model and the data files inside, nothing else in it.

Examples
--------
``python scripts/check_wheel.py dist/undertone-0.2.0-py3-none-any.whl``
"""

import sys
import zipfile
from pathlib import Path

MAX_SIZE_BYTES = 12_000_000  # the model must stay small enough to ship with the package
SOURCE = Path(__file__).resolve().parent.parent / "src"


def find_problems(wheel: Path) -> list[str]:
    """One sentence per thing that is wrong with the wheel; empty when all is well."""
    names = set(zipfile.ZipFile(wheel).namelist())
    problems = []
    if (size_bytes := wheel.stat().st_size) > MAX_SIZE_BYTES:
        problems.append(f"the wheel has {size_bytes:,} bytes, more than {MAX_SIZE_BYTES:,}")
    problems += [f"{name} is in src/ and not in the wheel" for name in sorted(_package_files()) if name not in names]
    problems += [
        f"{name} does not belong in the wheel"
        for name in sorted(names)
        if not name.startswith("undertone/") and ".dist-info/" not in name
    ]
    if not any(name.startswith("undertone/models/") and name.endswith(".onnx") for name in names):
        problems.append("no model in undertone/models/: the first command would not work offline")
    return problems


def _package_files() -> set[str]:
    """Names, relative to src/, of all files of the package, whatever their kind."""
    return {
        path.relative_to(SOURCE).as_posix()
        for path in (SOURCE / "undertone").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and not path.name.startswith(".")
    }


def main() -> int:
    """Print the size and the problems of the wheel named on the command line."""
    wheel = Path(sys.argv[1])
    problems = find_problems(wheel)
    print(f"{wheel.name}: {wheel.stat().st_size / 1e6:.1f} MB of at most {MAX_SIZE_BYTES / 1e6:.0f} MB")
    print("\n".join(problems) or "contents as expected")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
