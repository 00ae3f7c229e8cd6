"""Experiments: the only place that sees test data, once per fold.

A run of a protocol is a folder with one folder per fold. A fold's ``fold.json`` is written last and holds the test
logits; a fold that has one is never trained or tested again, which makes a run resumable fold by fold (and, through
the trainer's checkpoint, epoch by epoch inside a fold).
"""

import hashlib
import json
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch

from undertone.audio import SAMPLE_RATE, AudioError, load_waveform
from undertone.files import write_file
from undertone.lab.augment import apply_steps
from undertone.lab.corpora import CORPORA, CorpusError, Problem, Utterance, exclude, find_problems, load
from undertone.lab.data import Waveforms, copy_utterances, decode_utterances, to_int16
from undertone.lab.evaluation import (
    CORPUS_CLASSES,
    ProtocolError,
    Split,
    audit_split,
    build_final_split,
    build_split,
    fit_temperature,
    get_protocol,
    list_folds,
    scores,
    scores_by_corpus,
    softmax,
)
from undertone.lab.evaluation.protocols import SHIPPED
from undertone.lab.recipes import Model, Recipe, build_model, n_parameters, networks_of, parse_recipe
from undertone.lab.training import LabelledClips, TrainingError, compute_logits, fit, make_fabric

FOLD_FILE = "fold.json"
MIN_CLIP_SAMPLES = SAMPLE_RATE // 10  # 0.1 s: shorter clips carry no emotion and are left out
# A class that other corpora file under another label says nothing about their clips: RAVDESS tells calm from neutral,
# the others have one label for both. The loss leaves it alone there.
AMBIGUOUS = {"calm"}

Progress = Callable[[int, int, int, dict[str, float]], None]  # fold, epochs done, epochs in all, what was measured


@dataclass(frozen=True)
class Dataset:
    """Utterances that can be used, decoded, and what was left out and why."""

    utterances: tuple[Utterance, ...]
    waveforms: Waveforms
    problems: tuple[Problem, ...]
    unreadable: dict[str, str]

    def clips(self, rows: np.ndarray, classes: tuple[str, ...], *, masks: bool = True) -> LabelledClips:
        """Labelled clips of ``rows`` for training and development.

        With ``masks``, a class that the clip's corpus does not tell from another is left out of its loss.
        """
        chosen = [self.utterances[row] for row in rows]
        names = list(CORPORA)
        allowed = np.array(
            [
                [not masks or name not in AMBIGUOUS or name in CORPUS_CLASSES[clip.corpus] for name in classes]
                for clip in chosen
            ],
            dtype=bool,
        ).reshape(len(chosen), len(classes))
        return LabelledClips(
            self.waveforms.select(rows),
            np.array([classes.index(clip.emotion) for clip in chosen], dtype=np.int64),
            np.array([names.index(clip.corpus) for clip in chosen], dtype=np.int64),
            np.unique([clip.speaker_id for clip in chosen], return_inverse=True)[1],
            allowed,
        )


def load_dataset(
    root: Path,
    corpora: Sequence[str] | None = None,
    *,
    recipe: Recipe | None = None,
    cache_dir: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Dataset:
    """Read corpora below ``root``, decode them, and leave out silent, doubled, unreadable and empty clips by rule.

    With ``recipe``, the altered copies that it asks for are added.
    """
    dataset = clean(load(root, corpora), cache_dir=cache_dir, progress=progress)
    if recipe is None or not recipe.copies:
        return dataset
    return add_copies(dataset, recipe, cache_dir=cache_dir, progress=progress)


def clean(
    found: Sequence[Utterance],
    *,
    cache_dir: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Dataset:
    """Decode utterances and leave out silent, doubled, unreadable and empty ones by rule."""
    waveforms = decode_utterances(found, cache_dir, progress=progress)
    problems = find_problems(found, waveforms.digests, waveforms.is_silent.tolist())
    usable = {utterance.utterance_id for utterance in exclude(found, problems)}
    rows = [
        row
        for row, utterance in enumerate(found)
        if utterance.utterance_id in usable and len(waveforms.clips[row]) >= MIN_CLIP_SAMPLES
    ]
    unreadable = {found[row].utterance_id: reason for row, reason in waveforms.errors.items()} | {
        utterance.utterance_id: f"shorter than {MIN_CLIP_SAMPLES / SAMPLE_RATE:g} s"
        for utterance, clip in zip(found, waveforms.clips, strict=True)
        if 0 < len(clip) < MIN_CLIP_SAMPLES
    }
    return Dataset(tuple(found[row] for row in rows), waveforms.select(rows), tuple(problems), unreadable)


def add_copies(
    dataset: Dataset,
    recipe: Recipe,
    *,
    cache_dir: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Dataset:
    """Add the altered copies that a recipe asks for, each marked with the clip it was made of."""
    utterances, clips, digests = (
        list(dataset.utterances),
        list(dataset.waveforms.clips),
        list(dataset.waveforms.digests),
    )
    for copy in recipe.copies:

        def alter(waveform: np.ndarray, rng: np.random.Generator, others: list[np.ndarray], copy: Any = copy) -> Any:
            return apply_steps(waveform, copy["steps"], rng, others=others)

        made, waveforms = copy_utterances(dataset.utterances, dataset.waveforms, copy["name"], alter,
                                          json.dumps(copy["steps"]), cache_dir, progress=progress)  # fmt: skip
        utterances += made
        clips += waveforms.clips
        digests += waveforms.digests
    return Dataset(tuple(utterances), Waveforms(tuple(clips), tuple(digests), {}), dataset.problems, dataset.unreadable)


# ---------------------------------------------------------------------------------------------- one fold


def run_fold(
    dataset: Dataset,
    protocol: str,
    recipe: Recipe,
    fold: int,
    run_dir: Path,
    *,
    extra_train: Sequence[str] = (),
    seed: int = 0,
    accelerator: str = "auto",
    on_epoch: Callable[[int, int, dict[str, float]], None] | None = None,
) -> dict[str, Any]:
    """Train on one fold, choose and calibrate on dev, test once; return what ``fold.json`` then holds.

    Raises
    ------
    LeakError
        If a protocol that promises disjoint speakers does not hold; nothing is trained then.
    """
    done = run_dir / FOLD_FILE
    started = time.perf_counter()
    utterances, digests = dataset.utterances, dataset.waveforms.digests
    _refuse_missing_copies(protocol, utterances)
    split = build_split(
        protocol, utterances, fold, extra_train=extra_train, digests=digests, joins_dev=recipe.joins_dev
    )
    if done.exists():
        return _read_fold(done, _identify(dataset, split, recipe, seed, extra_train))
    audit = audit_split(split, utterances, digests)
    audit.check()
    model, trained = _train(dataset, split, recipe, run_dir, seed, accelerator, on_epoch)
    result = {
        "protocol": protocol,
        "fold": fold,
        "classes": list(split.classes),
        **trained,
        "audit": audit.to_json(),
        "audit_summary": audit.summary(),
        "banner": audit.banner,
        "notes": list(split.notes),
        "extra_train": list(extra_train),
        "dev": [utterances[row].utterance_id for row in split.dev],
        "test": [_describe(utterances[row]) for row in split.test],
        "audio": _hash_audio(dataset, split),
        "test_logits": rounded(compute_logits(model, dataset.waveforms.select(split.test))),
        "seconds": round(time.perf_counter() - started, 1),
    }
    write_file(done, json.dumps(result))
    return result


def train_final(
    dataset: Dataset,
    recipe: Recipe,
    run_dir: Path,
    *,
    seed: int = 0,
    accelerator: str = "auto",
    on_epoch: Callable[[int, int, dict[str, float]], None] | None = None,
) -> dict[str, Any]:
    """Train on everything but dev's speakers, if the recipe leaves any, for a model to be shipped; test nothing."""
    split = build_final_split(dataset.utterances, digests=dataset.waveforms.digests, joins_dev=recipe.joins_dev)
    audit = audit_split(split, dataset.utterances, dataset.waveforms.digests)
    audit.check()
    _, trained = _train(dataset, split, recipe, run_dir, seed, accelerator, on_epoch)
    result = {
        "protocol": "shipped",
        "fold": 0,
        "classes": list(split.classes),
        **trained,
        "audit_summary": audit.summary(),
        "notes": list(split.notes),
        "dev": [dataset.utterances[row].utterance_id for row in split.dev],
    }
    write_file(run_dir / FOLD_FILE, json.dumps(result))
    return result


def _train(
    dataset: Dataset,
    split: Split,
    recipe: Recipe,
    run_dir: Path,
    seed: int,
    accelerator: str,
    on_epoch: Callable[[int, int, dict[str, float]], None] | None,
) -> tuple[Model, dict[str, Any]]:
    # Where every clip may be answered with any class, as in the published protocols, any answer has to be learned.
    masks = get_protocol(split.protocol).speaker_disjoint
    train, dev = (dataset.clips(rows, split.classes, masks=masks) for rows in (split.train, split.dev))
    fabric = make_fabric(precision=recipe.precision, accelerator=accelerator)
    model, history = fit(recipe, split.classes, train, dev if len(dev) else None, run_dir, seed=seed,
                         fabric=fabric, on_epoch=on_epoch)  # fmt: skip
    temperature = 1.0
    if len(dev):
        temperature = fit_temperature(np.where(dev.allowed, compute_logits(model, dev.waveforms), -1e4), dev.target)
    return model, {
        "recipe": recipe.to_json(),
        "recipe_hash": recipe.hash,
        "seed": seed,
        "temperature": temperature,
        "history": history.rows,
        "best_epoch": history.best_epoch,
        "dev_uar": history.best_uar if len(dev) else None,
        "training_seconds": round(sum(row["seconds"] for row in history.rows), 1),
        "train_corpora": _count_training(dataset, split),
    }


def _count_training(dataset: Dataset, split: Split) -> dict[str, dict[str, Any]]:
    clips = [dataset.utterances[row] for row in split.train]
    return {
        corpus: {
            "n_utterances": len({clip.source_id or clip.utterance_id for clip in clips if clip.corpus == corpus}),
            "speakers": sorted({clip.speaker_id for clip in clips if clip.corpus == corpus}),
        }
        for corpus in CORPORA
        if any(clip.corpus == corpus for clip in clips)
    }


def _describe(utterance: Utterance) -> dict[str, str]:
    return {
        "id": utterance.utterance_id,
        "corpus": utterance.corpus,
        "speaker": utterance.speaker_id,
        "sex": utterance.sex,
        "emotion": utterance.emotion,
    }


# ---------------------------------------------------------------------------------------------- all folds


def evaluate(
    root: Path,
    protocol: str,
    recipe: Recipe,
    run_dir: Path,
    *,
    folds: Sequence[int] | None = None,
    extra_train: Sequence[str] = (),
    seed: int = 0,
    jobs: int = 1,
    accelerator: str = "auto",
    cache_dir: Path | None = None,
    on_decode: Callable[[int, int], None] | None = None,
    on_epoch: Progress | None = None,
) -> dict[str, Any]:
    """Run a protocol's folds, those that are not done yet, and return the report on all that are.

    Parameters
    ----------
    folds
        Which to run; None means all that the corpora on disk allow.
    jobs
        Folds trained at a time, each in a process of its own on an equal share of the processor's cores. Small
        networks train faster as two processes of one thread than as one of two.
    """
    wanted = get_protocol(protocol)
    if wanted is SHIPPED:
        raise TrainingError(f"{protocol!r} tests nothing; train it with 'undertone lab train', or name a protocol")
    asked = None if wanted.optional_corpora else [*wanted.corpora, *extra_train]
    dataset = load_dataset(root, asked, recipe=recipe, cache_dir=cache_dir, progress=on_decode)
    folds = list_folds(protocol, dataset.utterances) if folds is None else sorted(set(folds))
    if not folds:
        raise TrainingError(_why_nothing(protocol, dataset))
    folders = {fold: run_dir / f"fold-{fold}" for fold in folds}
    _refuse_missing_copies(protocol, dataset.utterances)
    identities, open_folds = {}, []
    for fold in folds:  # what cannot run is found before hours are spent on the folds before it
        split = build_split(
            protocol, dataset.utterances, fold, extra_train=extra_train, digests=dataset.waveforms.digests,
            joins_dev=recipe.joins_dev,
        )  # fmt: skip
        identities[fold] = _identify(dataset, split, recipe, seed, extra_train)
        if (folders[fold] / FOLD_FILE).exists():
            _read_fold(folders[fold] / FOLD_FILE, identities[fold])
        else:
            open_folds.append(fold)
    jobs = max(1, min(jobs, len(folds)))
    threads = max(1, (os.cpu_count() or 1) // jobs)  # of what was asked for, not of what is left: sums depend on it
    arguments = {"extra_train": tuple(extra_train), "seed": seed, "accelerator": accelerator}
    if jobs == 1:
        for fold in open_folds:
            report = None if on_epoch is None else lambda *values, fold=fold: on_epoch(fold, *values)
            run_fold(dataset, protocol, recipe, fold, folders[fold], on_epoch=report, **arguments)
    else:
        for values in _run_parallel(
            root, asked, cache_dir, protocol, recipe, folders, open_folds, jobs, threads, arguments
        ):
            if on_epoch is not None:
                on_epoch(*values)
    return summarise([_read_fold(folders[fold] / FOLD_FILE, identities[fold]) for fold in folds], dataset)


def _why_nothing(protocol: str, dataset: Dataset) -> str:
    """Say why no fold of a protocol can run."""
    found = f"no fold of {protocol} has a clip to test"
    if not dataset.unreadable:
        return f"{found}; are its corpora below the folder of --data?"
    name, reason = next(iter(dataset.unreadable.items()))
    return f"{found}: {len(dataset.unreadable):,} clips could not be used, the first, {name}: {reason}"


def run_dir_of(
    protocol: str, recipe: Recipe, seed: int = 0, extra_train: Sequence[str] = (), *, runs: Path = Path("runs")
) -> Path:
    """Run folder of a recipe under a protocol, where none is given."""
    return runs / protocol / "+".join([f"{recipe.name}-{recipe.hash}-seed{seed}", *extra_train])


def _refuse_missing_copies(protocol: str, utterances: Sequence[Utterance]) -> None:
    if get_protocol(protocol).tests_copies and not any(utterance.source_id for utterance in utterances):
        raise ProtocolError(
            f"{protocol} splits augmented copies, and there are none among these clips: without them it is another, "
            "milder protocol; use pooled-random"
        )


def _identify(dataset: Dataset, split: Split, recipe: Recipe, seed: int, extra_train: Sequence[str]) -> dict[str, Any]:
    """Collect what must agree before a finished fold is taken for the one that was asked for."""
    return {
        "protocol": split.protocol,
        "recipe_hash": recipe.hash,
        "seed": seed,
        "extra_train": list(extra_train),
        "train_corpora": _count_training(dataset, split),
        "dev": [dataset.utterances[row].utterance_id for row in split.dev],
        "test": [_describe(dataset.utterances[row]) for row in split.test],
        "audio": _hash_audio(dataset, split),
    }


def _hash_audio(dataset: Dataset, split: Split) -> str:
    digests = [dataset.waveforms.digests[row] for part in (split.train, split.dev, split.test) for row in part]
    return hashlib.sha256("".join(digests).encode()).hexdigest()[:16]


def _read_fold(path: Path, identity: dict[str, Any]) -> dict[str, Any]:
    """Read a finished fold, unless it is one of another run, or the clips on disk are not those it knew."""
    result = json.loads(path.read_text())
    result = {"audio": identity["audio"]} | result  # folds of earlier versions do not say
    if other := [key for key, value in identity.items() if result.get(key) != value]:
        raise TrainingError(
            f"{path.parent} holds a run with another {' and '.join(other)}; choose another folder or remove it"
        )
    return result


def _run_parallel(
    root: Path,
    corpora: list[str] | None,
    cache_dir: Path | None,
    protocol: str,
    recipe: Recipe,
    folders: dict[int, Path],
    folds: Sequence[int],
    jobs: int,
    threads: int,
    arguments: dict[str, Any],
) -> Iterator[tuple[int, int, int, dict[str, float]]]:
    """Run folds, each in a process, ``jobs`` at a time, and yield their progress as it comes.

    When one fails, or the caller is stopped, so are the others: each can go on where it was.
    """
    context = multiprocessing.get_context("spawn")
    shared = (root, corpora, cache_dir, protocol, recipe.to_json(), arguments, threads)
    waiting, running = list(folds), {}
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                fold = waiting.pop(0)
                receiver, sender = context.Pipe(duplex=False)
                process = context.Process(target=_run_fold_alone, args=(fold, folders[fold], *shared, sender))
                process.daemon = True
                with _ctrl_c_ignored():
                    process.start()
                sender.close()
                running[receiver] = fold, process
            for receiver in multiprocessing.connection.wait(list(running)):
                try:
                    message = receiver.recv()  # type: ignore[union-attr]
                except EOFError:
                    _check_end(*running.pop(receiver))
                    continue
                if isinstance(message, Exception):
                    raise message
                yield message
    finally:
        for _, process in running.values():
            process.terminate()
        for _, process in running.values():
            process.join()


def _check_end(fold: int, process: Any) -> None:
    process.join()
    if process.exitcode:
        raise TrainingError(
            f"the process of fold {fold} ended with exit code {process.exitcode}"
            + ("; is the memory enough for so many folds at a time?" if process.exitcode < 0 else "")
        )


@contextmanager
def _ctrl_c_ignored() -> Iterator[None]:
    """Keep Ctrl-C from a process started in here, from its first instruction on: who started it stops it."""
    if threading.current_thread() is not threading.main_thread():
        yield  # handlers belong to the main thread
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _run_fold_alone(
    fold: int,
    folder: Path,
    root: Path,
    corpora: list[str] | None,
    cache_dir: Path | None,
    protocol: str,
    recipe: dict[str, Any],
    arguments: dict[str, Any],
    threads: int,
    sender: Connection,
) -> None:
    torch.set_num_threads(threads)
    try:
        wanted = parse_recipe(recipe)
        dataset = load_dataset(root, corpora, recipe=wanted, cache_dir=cache_dir)
        run_fold(dataset, protocol, wanted, fold, folder,
                 on_epoch=lambda *values: sender.send((fold, *values)), **arguments)  # fmt: skip
    except BrokenPipeError:
        pass  # nobody is there any more to report to: whoever starts the command again trains this fold
    except (ValueError, OSError) as error:
        if isinstance(error, ValueError) and not type(error).__module__.startswith("undertone."):
            raise  # a mistake of ours is shown from here; the others say what to do
        sender.send(error)


# ---------------------------------------------------------------------------------------------- scores


def summarise(folds: Sequence[dict[str, Any]], dataset: Dataset | None = None) -> dict[str, Any]:
    """Report on finished folds: scores over all test clips, per fold and per corpus, before and after calibration.

    Raises
    ------
    TrainingError
        If the folds are of different recipes, protocols or seeds.
    """
    first = folds[0]
    for key in ("protocol", "recipe_hash", "classes", "seed", "extra_train"):
        if any(fold[key] != first[key] for fold in folds):
            raise TrainingError(f"these folds differ in their {key}: they are not one run")
    classes = tuple(first["classes"])
    tested = [clip for fold in folds for clip in fold["test"]]
    logits = [np.array(fold["test_logits"]) for fold in folds]
    probs = np.concatenate([softmax(z, temperature=fold["temperature"]) for z, fold in zip(logits, folds, strict=True)])
    raw = np.concatenate([softmax(z) for z in logits])
    target = np.array([classes.index(clip["emotion"]) for clip in tested])
    who: dict[str, Any] = {
        "speakers": [clip["speaker"] for clip in tested],
        "sexes": [clip["sex"] for clip in tested],
    }
    corpora = [clip["corpus"] for clip in tested]
    overall: dict[str, Any] = scores(target, probs, classes=classes, **who)
    overall["ece_uncalibrated"] = scores(target, raw, classes=classes, **who)["ece"]
    report = {
        "protocol": first["protocol"],
        "description": get_protocol(first["protocol"]).description,
        "recipe": first["recipe"],
        "recipe_hash": first["recipe_hash"],
        "seed": first["seed"],
        "extra_train": first["extra_train"],
        "n_parameters": n_parameters(networks_of(build_model(parse_recipe(first["recipe"]), len(classes)))),
        "folds": [fold["fold"] for fold in folds],
        "n_folds": get_protocol(first["protocol"]).n_folds,
        "banner": first["banner"],
        "scores": overall,
        "per_fold": [_score_fold(fold, z) for fold, z in zip(folds, logits, strict=True)],
        "problems": [] if dataset is None else [problem.to_json() for problem in dataset.problems],
        "unreadable": {} if dataset is None else dataset.unreadable,
        "torch": torch.__version__,
    }
    report["mean_uar"] = float(np.mean([fold["uar"] for fold in report["per_fold"]]))
    if len(set(corpora)) > 1:
        both = scores_by_corpus(target, probs, classes=classes, corpora=corpora, corpus_classes=CORPUS_CLASSES, **who)
        raw_both = scores_by_corpus(target, raw, classes=classes, corpora=corpora, corpus_classes=CORPUS_CLASSES, **who)
        for corpus, kinds in both.items():
            for kind, values in kinds.items():
                values["ece_uncalibrated"] = raw_both[corpus][kind]["ece"]
        report["corpora"] = both
        allowed = np.array([[name in CORPUS_CLASSES[corpus] for name in classes] for corpus in corpora])
        own, own_raw = (_among(allowed, values) for values in (probs, raw))
        report["restricted"] = scores(target, own, classes=classes, **who)
        report["restricted"]["ece_uncalibrated"] = scores(target, own_raw, classes=classes, **who)["ece"]
    if dataset is not None and (voted := _score_votes(dataset, tested, probs, classes)):
        report["voted"] = voted
    sex_of = {clip["speaker"]: clip["sex"] for clip in tested}
    for part in (overall, *(values for kinds in report.get("corpora", {}).values() for values in kinds.values())):
        for speaker, row in part["per_speaker"].items():
            row["sex"] = sex_of[speaker]
    return report


def _among(allowed: np.ndarray, probs: np.ndarray) -> np.ndarray:
    """Probabilities among the allowed classes of each row; uniform where they have none, as ``restrict_probs`` says."""
    kept = np.where(allowed, probs, 0)
    total = kept.sum(axis=1, keepdims=True)
    return np.where(total > 0, kept, allowed) / np.where(total > 0, total, allowed.sum(axis=1, keepdims=True))


def _score_votes(
    dataset: Dataset, tested: Sequence[dict[str, Any]], probs: np.ndarray, classes: tuple[str, ...]
) -> dict[str, Any] | None:
    """Compare answers with what a corpus's listeners heard, where it says so; clips they were tied on are left out.

    Beside the model's UAR and WAR against the votes stands ``acted_war``: how often the actors' own intention, the
    label that everything else is scored by, agrees with the listeners.
    """
    votes = {clip.utterance_id: clip.voted_emotion for clip in dataset.utterances if len(clip.voted_emotion) == 1}
    rows = [row for row, clip in enumerate(tested) if clip["id"] in votes]
    if not rows:
        return None
    corpora = sorted({tested[row]["corpus"] for row in rows})
    allowed = np.array([[name in CORPUS_CLASSES[tested[row]["corpus"]] for name in classes] for row in rows])
    predicted = np.where(allowed, probs[rows], -1).argmax(axis=1)
    heard = np.array([classes.index(votes[tested[row]["id"]][0]) for row in rows])
    meant = np.array([classes.index(tested[row]["emotion"]) for row in rows])
    hit = predicted == heard
    return {
        "corpora": corpora,
        "n_utterances": len(rows),
        "uar": float(np.mean([hit[heard == c].mean() for c in np.unique(heard)])),
        "war": float(hit.mean()),
        "acted_war": float((meant == heard).mean()),
    }


def _score_fold(fold: dict[str, Any], logits: np.ndarray) -> dict[str, Any]:
    classes = tuple(fold["classes"])
    target = np.array([classes.index(clip["emotion"]) for clip in fold["test"]])
    own = scores(
        target,
        softmax(logits, temperature=fold["temperature"]),
        classes=classes,
        speakers=[clip["speaker"] for clip in fold["test"]],
        n_resamples=100,
    )
    kept = (
        "fold",
        "temperature",
        "best_epoch",
        "dev_uar",
        "training_seconds",
        "history",
        "audit",
        "audit_summary",
        "notes",
    )
    return {key: fold[key] for key in kept} | {
        key: own[key] for key in ("uar", "war", "n_utterances", "n_speakers", "absent_classes")
    }


def test_model(
    model: Any,
    utterances: Sequence[Utterance],
    *,
    cache_dir: Path | None = None,
    on_progress: Callable[[int], object] | None = None,
) -> dict[str, Any]:
    """Score a model file on labelled clips, with probabilities restricted to the classes of the clips' corpus.

    Parameters
    ----------
    model
        An :class:`undertone.recognizer.Recognizer`.
    utterances
        Clips of one corpus. Silent and doubled ones are left out by the rule that every evaluation follows. Calm counts
        as neutral for a model that does not know calm; other emotions that the model does not know are left out and
        counted.

    Returns
    -------
    dict
        ``restricted`` and ``unrestricted`` scores, clips left out by rule and by emotion, unreadable clips, and the
        speakers that the model's card names as those it was trained or chosen on.
    """
    labels = tuple(model.card.labels)
    heard = {speaker for corpus in model.card.corpora for speaker in corpus.speakers}
    waveforms = decode_utterances(utterances, cache_dir)
    problems = find_problems(utterances, waveforms.digests, waveforms.is_silent.tolist())
    named = [(clip, _known_as(clip.emotion, labels)) for clip in exclude(utterances, problems)]
    known = [(clip, emotion) for clip, emotion in named if emotion in labels]
    if not known:
        raise TrainingError(f"none of the clips has an emotion that the model knows: {', '.join(labels)}")
    predictions = list(model.predict_batch([clip.path for clip, _ in known], on_progress=on_progress))
    scored = [(*pair, p) for pair, p in zip(known, predictions, strict=True) if p.error is None]
    if not scored:
        raise TrainingError(f"none of the {len(known)} clips could be read; the first: {predictions[0].error}")
    target = np.array([labels.index(emotion) for _, emotion, _ in scored])
    probs = np.array([[p.probs[label] for label in labels] for *_, p in scored])
    corpus = known[0][0].corpus
    own_classes = {_known_as(emotion, labels) for emotion in CORPUS_CLASSES[corpus]}
    both = scores_by_corpus(
        target,
        probs,
        classes=labels,
        corpora=[clip.corpus for clip, *_ in scored],
        speakers=[clip.speaker_id for clip, *_ in scored],
        sexes=[clip.sex for clip, *_ in scored],
        corpus_classes={corpus: sorted(own_classes & set(labels), key=labels.index)},
    )[corpus]
    left_out = [emotion for _, emotion in named if emotion not in labels]
    return {
        "corpus": corpus,
        "model": model.card.name,
        **both,
        "left_out": {emotion: left_out.count(emotion) for emotion in sorted(set(left_out))},
        "problems": [problem.to_json() for problem in problems],
        "unreadable": {str(p.path): p.error for p in predictions if p.error is not None},
        "heard_in_training": sorted({clip.speaker_id for clip, *_ in scored} & heard),
    }


test_model.__test__ = False  # type: ignore[attr-defined]  # a function of ours, not a test for pytest


def _known_as(emotion: str, labels: tuple[str, ...]) -> str:
    return "neutral" if emotion == "calm" and "calm" not in labels else emotion


def rounded(logits: np.ndarray) -> list[list[float]]:
    """Logits as fold.json holds them."""
    return [[round(float(value), 5) for value in row] for row in logits]


def select_speakers(utterances: Sequence[Utterance], speakers: str | None) -> list[Utterance]:
    """Utterances of the speakers in a list such as ``1001-1010,1042`` or ``DC,JE``; all for None.

    Raises
    ------
    CorpusError
        If a name or a range fits no speaker.
    """
    if speakers is None:
        return list(utterances)
    names = {utterance.speaker_id: utterance.speaker_id.split("/", 1)[1] for utterance in utterances}
    wanted: set[str] = set()
    for part in (part.strip() for part in speakers.split(",")):
        low, _, high = part.partition("-")
        if low.isdigit() and high.isdigit():
            found = {key for key, name in names.items() if name.isdigit() and int(low) <= int(name) <= int(high)}
        else:
            found = {key for key, name in names.items() if part in (key, name)}
        if not found:
            raise CorpusError(f"no speaker is called {part!r}; there are {', '.join(sorted(names.values()))}")
        wanted |= found
    return [utterance for utterance in utterances if utterance.speaker_id in wanted]


def parity_clips(utterances: Sequence[Utterance], n_per_corpus: int = 12) -> Waveforms:
    """Decode a few clips of each corpus, spread over its list, to compare torch and a model file on."""
    chosen = []
    for corpus in sorted({utterance.corpus for utterance in utterances}):
        own = [utterance for utterance in utterances if utterance.corpus == corpus]
        chosen += own[:: max(1, len(own) // n_per_corpus)][:n_per_corpus]
    waveforms = []
    for utterance in chosen:
        try:
            waveforms.append(to_int16(load_waveform(utterance.path)))
        except AudioError:
            continue  # `corpora verify` names it; the others are enough to compare on
    return Waveforms(tuple(waveforms), ("",) * len(waveforms), {})
