"""Studies: what a change of a recipe does to speakers that are not tested, several seeds each.

A study trains a recipe and variations of it, each with every seed, and scores their last weights on *dev folds*: all
speakers that a protocol tests in those folds. The other speakers are what it trains on. No epoch is chosen, nothing is
calibrated, and no figure of a study is a test score: those come from :mod:`undertone.lab.experiment`.

A study is a folder with a folder per variation and seed; ``result.json`` is written last, and what is finished is read
back. Differences are taken seed by seed, because seeds move together: the same batches, the same speakers.
"""

import hashlib
import json
import os
import threading
import tomllib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

import numpy as np
import torch

from undertone.files import write_file
from undertone.lab.evaluation import CORPUS_CLASSES, Split, audit_split, get_protocol, scores_by_corpus, softmax
from undertone.lab.evaluation.protocols import list_test_speakers
from undertone.lab.experiment import Dataset, load_dataset
from undertone.lab.recipes import Recipe, n_parameters, networks_of, parse_recipe
from undertone.lab.robustness import CLEAN, hear_altered, uar_by_corpus, uar_lost
from undertone.lab.training import compute_logits, fit, make_fabric

BASE = "as it is"
OnEpoch = Callable[[int, int, dict[str, float]], None]


class StudyError(ValueError):
    """A study that cannot start or go on; the message says what to change."""


def vary(recipe: Recipe, change: str) -> Recipe:
    """Return the recipe with ``section.key=value`` (TOML values), several separated by semicolons.

    Examples
    --------
    >>> from undertone.lab.recipes import load_recipe
    >>> varied = vary(load_recipe("undertone-street"), "network.widths=[8,16]; network.time_stages=1")
    >>> varied.network["widths"], varied.network["time_stages"]
    ([8, 16], 1)
    """
    if change == BASE:
        return recipe
    content = recipe.to_json()
    for part in change.split(";"):
        path, _, text = part.partition("=")
        *sections, key = path.strip().split(".")
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError as error:
            raise StudyError(f"{part.strip()!r} is no section.key=value with a TOML value: {error}") from error
        if len(sections) > 1 or (sections and not isinstance(content.get(sections[0], {}), dict)):
            raise StudyError(f"{path.strip()!r} names no value of a recipe; write section.key, such as training.lr")
        if sections:
            content[sections[0]] = {**content.get(sections[0], {}), key: value}
        else:
            content[key] = value
    return parse_recipe(content)


def build_study_split(dataset: Dataset, protocol: str, dev_folds: Sequence[int]) -> Split:
    """Train on all speakers but those tested in ``dev_folds``, whose clips, unaltered, are dev; ``test`` is empty.

    Raises
    ------
    StudyError
        If the protocol shares speakers between its parts, or nothing is left to train on.
    """
    found = get_protocol(protocol)
    if not found.speaker_disjoint:
        raise StudyError(f"{protocol} does not keep speakers apart; study pooled-speaker or another of that kind")
    held_out = {name for fold in dev_folds for names in list_test_speakers(found, fold).values() for name in names}
    clips = dataset.utterances
    own = [row for row, clip in enumerate(clips) if clip.corpus in found.corpora and clip.emotion in found.classes]
    dev = np.array(
        [row for row in own if clips[row].speaker_id in held_out and clips[row].source_id is None], dtype=np.int64
    )
    train = np.array([row for row in own if clips[row].speaker_id not in held_out], dtype=np.int64)
    if not len(dev) or not len(train):
        raise StudyError(f"dev folds {list(dev_folds)} leave no clip to {'train' if len(dev) else 'score'} on")
    return Split(found.name, 0, found.classes, train, dev, np.zeros(0, np.int64), ())


def _identify(dataset: Dataset, split: Split, dev_folds: Sequence[int]) -> dict[str, Any]:
    """Collect what two trials must share to be compared, and to be read back: protocol, speakers, and the sound itself.

    Of the unaltered clips: variations may differ in the copies they make of them.
    """
    rows = [row for row in (*split.train, *split.dev) if dataset.utterances[row].source_id is None]
    sound = sorted((dataset.utterances[row].utterance_id, dataset.waveforms.digests[row]) for row in rows)
    return {
        "protocol": split.protocol,
        "dev_folds": list(dev_folds),
        "data": hashlib.sha256(json.dumps(sound).encode()).hexdigest()[:16],
    }


def run_trial(
    dataset: Dataset,
    recipe: Recipe,
    protocol: str,
    dev_folds: Sequence[int],
    run_dir: Path,
    *,
    seed: int,
    conditions: bool = False,
    accelerator: str = "auto",
    on_epoch: OnEpoch | None = None,
) -> dict[str, Any]:
    """Train once and score the last weights on the dev speakers; what ``result.json`` then holds.

    With ``conditions``, the dev clips are heard in noise, rooms and telephones, too, and ``lost`` is the UAR that each
    costs, the mean over corpora. A training that is finished is not done again for it.
    """
    split = build_study_split(dataset, protocol, dev_folds)
    audit_split(split, dataset.utterances, dataset.waveforms.digests).check()
    train, dev = dataset.clips(split.train, split.classes), dataset.clips(split.dev, split.classes)
    fabric = make_fabric(precision=recipe.precision, accelerator=accelerator)
    model, history = fit(recipe, split.classes, train, None, run_dir, seed=seed, fabric=fabric, on_epoch=on_epoch)
    clips = [dataset.utterances[row] for row in split.dev]
    logits = compute_logits(model, dev.waveforms)
    both = scores_by_corpus(
        dev.target,
        softmax(logits),
        classes=split.classes,
        corpora=[clip.corpus for clip in clips],
        speakers=[clip.speaker_id for clip in clips],
        sexes=[clip.sex for clip in clips],
        corpus_classes=CORPUS_CLASSES,
        n_resamples=1,
    )
    result = {
        "recipe": recipe.to_json(),
        "recipe_hash": recipe.hash,
        "seed": seed,
        **_identify(dataset, split, dev_folds),
        "n_train": len(split.train),
        "n_parameters": n_parameters(networks_of(model)),
        "train_war": history.rows[-1]["train_war"],
        "training_seconds": round(sum(row["seconds"] for row in history.rows), 1),
        "n_clips": {corpus: kinds["restricted"]["n_utterances"] for corpus, kinds in both.items()},
        "uar": {corpus: kinds["restricted"]["uar"] for corpus, kinds in both.items()},
        "ece": {corpus: kinds["restricted"]["ece"] for corpus, kinds in both.items()},
    }
    result["mean_uar"] = float(np.mean(list(result["uar"].values())))
    if conditions:
        heard = {CLEAN: logits} | hear_altered(model, dataset, split.dev.tolist(), split.train.tolist())
        corpora = np.array([clip.corpus for clip in clips])
        uars = {name: uar_by_corpus(dev.target, own, split.classes, corpora) for name, own in heard.items()}
        result["lost"] = uar_lost(uars)
    write_file(run_dir / "result.json", json.dumps(result))
    return result


def run_study(
    root: Path,
    recipe: Recipe,
    changes: Sequence[str],
    run_dir: Path,
    *,
    protocol: str = "pooled-speaker",
    dev_folds: Sequence[int] = (3, 4),
    seeds: Sequence[int] = (0, 1, 2),
    conditions: bool = False,
    jobs: int = 1,
    accelerator: str = "auto",
    on_decode: Callable[[int, int], None] | None = None,
    on_trial: Callable[[str, int, dict[str, Any]], None] | None = None,
) -> list[dict[str, Any]]:
    """Run what is not finished of a study, and return a row per variation (see :func:`summarise_study`).

    Parameters
    ----------
    changes
        As :func:`vary` reads them; the recipe as it is comes first in any case.
    conditions
        As :func:`run_trial` takes it.
    jobs
        Trainings at a time, each a process of its own; seeds come before variations, so that an early end leaves whole
        comparisons.
    on_trial
        Called with (change, seed, result) after each training.
    """
    wanted = list(dict.fromkeys([BASE, *changes]))
    recipes = {change: vary(recipe, change) for change in wanted}
    corpora = None if get_protocol(protocol).optional_corpora else get_protocol(protocol).corpora
    dataset = load_dataset(root, corpora, recipe=recipe, progress=on_decode)
    identity = _identify(dataset, build_study_split(dataset, protocol, dev_folds), dev_folds)
    trials = [(change, seed) for seed in seeds for change in wanted]
    folders = {(change, seed): run_dir / recipes[change].hash / f"seed-{seed}" for change, seed in trials}
    open_trials = [trial for trial in trials if not _is_finished(folders[trial], identity, conditions)]
    shared = (root, corpora, protocol, tuple(dev_folds), conditions, accelerator)
    pool = ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=_begin_process)
    try:
        running = {
            pool.submit(_run_trial_alone, recipes[change].to_json(), folders[change, seed], seed, *shared): (
                change,
                seed,
            )
            for change, seed in open_trials
        }
        for done in as_completed(running):
            result = done.result()
            if on_trial is not None:
                on_trial(*running[done], result)
    except BaseException:  # one has failed, or Ctrl-C: those under way end too, and go on where they were next time
        workers = list((pool._processes or {}).values())  # it has no public way to end them
        pool.shutdown(wait=False, cancel_futures=True)
        for worker in workers:
            worker.terminate()
        raise
    finally:
        pool.shutdown()
    found = {trial: json.loads((folders[trial] / "result.json").read_text()) for trial in trials}
    return list(summarise_study(wanted, seeds, found))


def summarise_study(
    changes: Sequence[str], seeds: Sequence[int], found: dict[tuple[str, int], dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Yield a row per variation: means over seeds, their deviation, and the mean difference to the recipe as it is."""
    base = np.array([found[BASE, seed]["mean_uar"] for seed in seeds])
    for change in changes:
        own = [found[change, seed] for seed in seeds]
        means = np.array([result["mean_uar"] for result in own])
        differences = means - base
        yield {
            "change": change,
            "seeds": list(seeds),
            "n_parameters": own[0]["n_parameters"],
            "uar": {corpus: float(np.mean([result["uar"][corpus] for result in own])) for corpus in own[0]["uar"]},
            "mean_uar": float(means.mean()),
            "deviation": float(means.std(ddof=1)) if len(seeds) > 1 else None,
            "difference": float(differences.mean()),
            "difference_deviation": float(differences.std(ddof=1)) if len(seeds) > 1 else None,
            "lost": _mean_lost(own),
            "train_war": float(np.mean([result["train_war"] for result in own])),
            "training_seconds": float(np.mean([result["training_seconds"] for result in own])),
        }


def _mean_lost(results: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Condition -> UAR lost, the mean over seeds; empty unless all have been asked."""
    if not all("lost" in result for result in results):
        return {}
    return {name: float(np.mean([result["lost"][name] for result in results])) for name in results[0]["lost"]}


def _is_finished(folder: Path, identity: dict[str, Any], conditions: bool) -> bool:
    """Whether a trial has all of its result; one of earlier versions, which did not say of what data, has not."""
    path = folder / "result.json"
    if not path.exists():
        return False
    found = json.loads(path.read_text())
    if other := [key for key, value in identity.items() if found.get(key, value) != value]:
        words = " and ".join(key.replace("_", " ") for key in other)
        raise StudyError(f"{folder.parents[1]} holds a study with other {words}; choose another folder or remove it")
    return identity.keys() <= found.keys() and (not conditions or "lost" in found)


def _begin_process() -> None:
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End when the study does, killed or not: what goes on would write into the folders of the next one."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _run_trial_alone(
    recipe: dict[str, Any], folder: Path, seed: int, root: Path, corpora: Sequence[str] | None, protocol: str,
    dev_folds: Sequence[int], conditions: bool, accelerator: str,
) -> dict[str, Any]:  # fmt: skip
    wanted = parse_recipe(recipe)
    dataset = load_dataset(root, corpora, recipe=wanted)
    return run_trial(dataset, wanted, protocol, dev_folds, folder, seed=seed, conditions=conditions,
                     accelerator=accelerator)  # fmt: skip
