"""The project around the code: one version, honest pages, a light import, full metadata, a right wheel."""

import ast
import importlib.metadata
import importlib.util
import os
import re
import shlex
import subprocess
import sys
import tomllib
import zipfile
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
PROJECT = tomllib.loads(PYPROJECT)["project"]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]

# Distributions whose import name is another one; those that torch imports for us, and where we ask it to.
IMPORT_NAMES = {
    "scikit-learn": "sklearn",
    "lightning-fabric": "lightning_fabric",
    "praat-parselmouth": "parselmouth",
    "opencv-python-headless": "cv2",
}
IMPORTED_FOR_US = {
    "onnx": "dynamo=True",  # torch's ONNX exporter keeps the model in it
    "onnxscript": "torch.onnx.export(",  # torch's ONNX exporter is written in it
    "tensorboard": "from torch.utils.tensorboard",  # torch's writer of training curves
}


def distribution(requirement: str) -> str:
    return re.split(r"[\[<>=!~ ]", requirement)[0]


def load_script(name: str):
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ---- metadata ----


def test_one_version_everywhere():
    version = PROJECT["version"]
    assert importlib.metadata.version("undertone") == version
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert newest is not None and newest[1] == version


def test_every_dependency_says_what_it_is_for():
    groups = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    requirements = [requirement for group in groups for requirement in group]
    explained = re.findall(r'^    "([^"]+)",\s+# \w.+$', PYPROJECT, re.MULTILINE)
    assert sorted(explained) == sorted(requirements)


def third_party_imports(folder: Path) -> dict[str, str]:
    """Modules, as written, that are imported below a folder (also inside functions) -> one file that does."""
    found = {}
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            else:
                continue
            for name in names:
                top = name.partition(".")[0]
                if top != "undertone" and top not in sys.stdlib_module_names:
                    found[name] = str(path.relative_to(ROOT))
    return found


def import_names(requirements: list[str]) -> set[str]:
    return {IMPORT_NAMES.get(name, name.replace("-", "_")) for name in map(distribution, requirements)}


@pytest.mark.parametrize(("folder", "without"), [("src", ["dev"]), ("tests", [])])
def test_everything_imported_is_declared(folder: str, without: list[str]):
    groups = {name: group for name, group in PROJECT["optional-dependencies"].items() if name not in without}
    requirements = sum(groups.values(), PROJECT["dependencies"])
    declared = import_names(requirements) | {"rich", "click", "markupsafe"}  # with typer and jinja2
    undeclared = {
        name: path
        for name, path in third_party_imports(ROOT / folder).items()
        if name.partition(".")[0] not in declared
    }
    assert not undeclared


def test_everything_declared_is_imported():
    tops = {name.partition(".")[0] for name in third_party_imports(ROOT / "src")}
    code = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "src").rglob("*.py"))
    for requirement in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["lab"]:
        name = distribution(requirement)
        if name in IMPORTED_FOR_US:
            assert IMPORTED_FOR_US[name] in code, f"{name} is declared and never used"
        else:
            assert import_names([requirement]) <= tops, f"{name} is declared and never imported"


# ---- the base floor ----


def test_import_loads_nothing_heavy():
    code = "import sys, undertone; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    loaded = set(result.stdout.split())
    assert "undertone" in loaded
    heavy = {
        "numpy",
        "onnxruntime",
        "soundfile",
        "soxr",
        "typer",
        "rich",
        "torch",
        "sklearn",
        "pandas",
        "librosa",
    }
    assert not loaded & heavy


def test_import_contract_covers_the_whole_use_floor():
    contracts = tomllib.loads(PYPROJECT)["tool"]["importlinter"]["contracts"]
    (sources,) = (contract["source_modules"] for contract in contracts if "base install only" in contract["name"])
    package = ROOT / "src" / "undertone"
    top = {path.stem for path in package.glob("*.py")} - {"__init__", "__main__"}
    commands = {f"cli.{path.stem}" for path in (package / "cli").glob("*.py")} - {"cli.__init__"}
    assert set(sources) == {f"undertone.{name}" for name in top | commands}


# ---- README and docs ----


def documented_commands() -> list[list[str]]:
    """Every ``undertone ...`` line of the shell blocks in README and docs, as words, without comments."""
    commands = {}
    for document in DOCUMENTS:
        for block in re.findall(r"^```sh\n(.*?)^```", document.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
            for line in block.splitlines():
                words = shlex.split(line.partition(">")[0], comments=True)
                if words[:1] == ["undertone"]:
                    commands[" ".join(words)] = words[1:]
    return list(commands.values())


@cache
def help_text(*command: str) -> str | None:
    """Print of ``undertone COMMAND --help``; None where there is no such command."""
    arguments = [sys.executable, "-m", "undertone", *command, "--help"]
    environment = os.environ | {"COLUMNS": "200", "NO_COLOR": "1"}
    result = subprocess.run(arguments, capture_output=True, text=True, env=environment)
    return result.stdout if result.returncode == 0 else None


def subcommand(words: list[str]) -> list[str]:
    """The leading words of a command line that name a command: ``lab corpora list``."""
    groups = {("lab",), ("lab", "corpora"), ("models",)}
    command: list[str] = []
    for word in words:
        if command and tuple(command) not in groups:
            break
        if word.startswith("-"):
            break
        command.append(word)
    return command


@pytest.mark.lab
@pytest.mark.parametrize("words", documented_commands(), ids=" ".join)
def test_documented_commands_exist(words: list[str]):
    text = help_text(*subcommand(words))
    assert text is not None, f"undertone {' '.join(words)}: no such command"
    for option in (word for word in words if word.startswith("--")):
        assert option in text, f"undertone {' '.join(words)}: no option {option}"


def test_documented_commands_are_found():
    assert ["predict", "clip.wav"] in documented_commands()


@pytest.mark.lab
def test_generated_parts_are_up_to_date():
    outdated = load_script("update_readme").find_outdated()
    assert not outdated, "run: make readme"


@pytest.mark.lab
def test_score_tables_show_what_the_card_says():
    scores = {
        "pooled-speaker": {
            "folds": [0, 4],
            "command": "undertone lab evaluate pooled-speaker undertone-small --folds 0,4",
            "corpora": {
                "ravdess": {
                    "n_classes": 8,
                    "uar": 0.71234,
                    "uar_interval": [0.65, 0.78],
                    "war": 0.7,
                    "n_utterances": 1440,
                    "n_speakers": 8,
                    "unrestricted": {"uar": 0.69},
                },
                "savee": {"uar": 0.5},
            },
            "ece": 0.03,
            "ece_uncalibrated": 0.125,
            "restricted": {"ece": 0.02, "ece_uncalibrated": 0.025},
            "sex_gap": {"female": 0.71, "male": 0.69, "gap": 0.02},
            "conditions": {
                "uar": {"clean": {"ravdess": 0.71234, "savee": 0.5}, "telephone": {"ravdess": 0.7, "savee": 0.4}},
                "lost": {"telephone": 0.0562},
            },
            "voted": {"corpora": ["crema-d"], "n_utterances": 1234, "uar": 0.5, "war": 0.6, "acted_war": 0.4},
        },
        "ravdess-speaker": {"folds": [0, 1, 2, 3, 4, 5], "uar": 0.63, "per_fold": [{"uar": 0.6}, 0.66]},
        "mystery": {},
    }
    card = type("Card", (), {"scores": scores})()
    text = load_script("update_readme").score_tables(card)
    assert "**`pooled-speaker`**, folds 0, 4 of 6 (counted from 0)" in text
    assert "| RAVDESS | 8 | 8 | 1,440 | 0.712 [0.650, 0.780] | 0.700 | 0.690 | 0.125 |" in text
    assert "| SAVEE |  |  |  | 0.500 | - | - |  |" in text
    assert "women minus that of men: +2.0 points" in text
    assert "| telephone | 0.700 | 0.400 | 5.6 |" in text and "| clean | 0.712 | 0.500 |  |" in text
    assert "listeners of CREMA-D heard" in text and "1,234 clips" in text and "UAR 0.500, WAR 0.600" in text
    assert "error 0.020 (0.025 before the temperature) among the emotions of each clip's corpus, 0.030 (0.125 " in text
    assert "**`ravdess-speaker`**, all 6 folds" in text
    assert "| UAR | 0.600 | 0.660 |" in text
    assert "**`mystery`**" in text


def test_links_between_documents_lead_somewhere():
    for document in DOCUMENTS:
        if document.parent == ROOT:  # mkdocs checks those of the docs
            for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text(encoding="utf-8")):
                assert (ROOT / target).exists(), f"{document.name} links to {target}"


# ---- the wheel ----


@pytest.mark.parametrize("left_out", [None, "model.py", ".csv.gz", ".toml", ".html.jinja", "py.typed"])
def test_check_wheel_misses_every_kind_of_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left_out: str | None):
    check_wheel = load_script("check_wheel")
    package = tmp_path / "src" / "undertone"
    names = ["model.py", "lab/hashes.csv.gz", "lab/folds.toml", "lab/report.html.jinja", "py.typed", "models/a.onnx"]
    for name in (*names, "__pycache__/model.cpython-311.pyc"):
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).touch()
    monkeypatch.setattr(check_wheel, "SOURCE", tmp_path / "src")
    wheel = tmp_path / "undertone-0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as opened:
        for name in names:
            if left_out is None or not name.endswith(left_out):
                opened.writestr(f"undertone/{name}", "")
    problems = check_wheel.find_problems(wheel)
    if left_out is None:
        assert problems == []
    else:
        assert len(problems) == 1
        assert problems[0].endswith(f"{left_out} is in src/ and not in the wheel")


@pytest.mark.slow
def test_wheel_is_small_and_complete(tmp_path: Path):
    pytest.importorskip("hatchling")
    arguments = [
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        str(tmp_path),
        str(ROOT),
    ]
    subprocess.run([sys.executable, "-m", "pip", *arguments], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    assert load_script("check_wheel").find_problems(wheel) == []
