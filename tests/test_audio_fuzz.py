"""Mutated audio files end in a waveform or in AudioError; the long run is ``python -m tests.fuzz.audio``."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="limits memory as POSIX does")
FOLDER = Path(__file__).parent / "fuzz"


@pytest.fixture(scope="module")
def fuzz():
    spec = importlib.util.spec_from_file_location("undertone_fuzz_audio", FOLDER / "audio.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_a_few_hundred_mutated_files(fuzz):
    report = fuzz.run(2, list(range(600)))
    assert not report.failures, str(report)
    assert report.counts[fuzz.RESULT] > 100  # the mutations are not all so rough that nothing is decoded
    assert report.counts[fuzz.REFUSED] > 100
    assert report.peak_mb < 1024


@pytest.mark.slow
def test_20000_mutated_files(fuzz):
    report = fuzz.run(0, list(range(20_000)), n_jobs=2)
    assert not report.failures, str(report)
    assert sum(report.counts.values()) == 20_000


def test_kept_cases(fuzz):
    for case in json.loads((FOLDER / "kept.json").read_text()):
        report = fuzz.run(case["seed"], [case["index"]])
        assert not report.failures, f"{case}: {report}"


def test_a_case_is_its_numbers(fuzz):
    seeds = fuzz.load_seeds()
    assert fuzz.make_case(0, 5, seeds) == fuzz.make_case(0, 5, seeds)
    assert fuzz.make_case(0, 5, seeds)[1] != fuzz.make_case(0, 6, seeds)[1]


def test_every_seed_opens_or_is_refused_by_name(fuzz):
    from undertone.audio import AudioError, load_waveform

    refused = []
    for name, content in fuzz.load_seeds().items():
        try:
            load_waveform(content)
        except AudioError:
            refused.append(name)
    assert refused == list(fuzz._REFUSED_SEEDS)


@pytest.mark.parametrize(
    ("sabotage", "said"),
    [("crash", "crash"), ("hang", "hang"), ("memory", "Memory"), ("exception", "ZeroDivisionError")],
)
def test_failures_are_noticed_and_the_rest_is_run(fuzz, sabotage, said):
    report = fuzz.run(0, [0, 1, 2], timeout_s=2.0, sabotage=sabotage)
    assert list(report.failures) == [1]
    assert said in report.failures[1]
    assert sum(report.counts.values()) == 3


def test_checksums_of_untouched_ogg_pages_stay(fuzz):
    content = fuzz.load_seeds()["mono.ogg"]
    assert fuzz._repair_ogg(bytearray(content)) == content
