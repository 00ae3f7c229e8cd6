"""Searches: the classic zoo under a protocol, and a network's settings on its dev speakers.

Like :mod:`undertone.lab.experiment`, this module brings protocols, training and test data together, and keeps its rule:
test clips are seen once per fold, by estimators whose family and settings were chosen without them. Inside a fold, the
training and dev speakers are dealt into inner folds; no speaker stands on both sides of one. A network's search never
looks at a test clip at all.

A search is a folder. Each family of each fold leaves one JSON file, written last and read back by the next start;
``results.json``, ``results.csv`` and ``trials.csv`` are made from these. Nothing is pickled.
"""

import csv
import hashlib
import io
import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from undertone.files import write_file
from undertone.lab.corpora import CORPORA
from undertone.lab.evaluation import (
    CORPUS_CLASSES,
    Audit,
    Split,
    audit_parts,
    audit_split,
    build_split,
    fit_temperature,
    get_protocol,
    list_folds,
    scores,
    scores_by_corpus,
    softmax,
)
from undertone.lab.evaluation.protocols import SHIPPED
from undertone.lab.experiment import Dataset, load_dataset, parity_clips, rounded
from undertone.lab.export_classic import export_classic
from undertone.lab.nets import NETWORKS
from undertone.lab.recipes import Recipe, parse_recipe
from undertone.lab.training import fit, make_fabric
from undertone.lab.zoo import (
    DEFAULT_FEATURES,
    METHODS,
    Found,
    InnerFolds,
    build_vector_features,
    compute_zoo_logits,
    convergence_ignored,
    extract_vectors,
    feature_section,
    fit_family,
    get_family,
    installed_families,
    mean_recall,
    search_family,
)
from undertone.model_file import Card, TrainingCorpus

RANDOM_SPLIT = "random split of the same clips"
LEAKS = (
    "Every speaker is in train and in test: the score says how well voices are remembered, "
    "not how well a new voice is understood."
)
OnFamily = Callable[[int, int, int, str, float], None]  # fold, done, in all, family, inner UAR


class SearchError(ValueError):
    """A search that cannot start or go on; the message says what to change."""


# ---------------------------------------------------------------------------------------------- the zoo


@dataclass(frozen=True)
class ZooConfig:
    """What a search of the zoo tries, and how.

    Attributes
    ----------
    features
        Name of a set of features, or a TOML file with ``[features]``.
    families
        Names; empty means all that are installed.
    method, n_trials
        See :func:`undertone.lab.zoo.search_family`.
    n_inner_folds
        Folds by speaker inside the training part of each fold.
    """

    features: str = DEFAULT_FEATURES
    families: tuple[str, ...] = ()
    method: str = "halving"
    n_trials: int = 12
    n_inner_folds: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise SearchError(f"there is no search method {self.method!r}; there are: {', '.join(METHODS)}")
        if self.n_trials < 1 or self.n_inner_folds < 2:
            raise SearchError("a search needs at least one trial and two inner folds")
        for name in self.families:
            get_family(name)

    @property
    def names(self) -> tuple[str, ...]:
        """Families to search."""
        return self.families or tuple(installed_families())


@dataclass(frozen=True)
class Material:
    """Clips of a protocol's corpora with their vectors: what all folds of a search share."""

    dataset: Dataset
    protocol: str
    section: dict[str, Any]
    vectors: np.ndarray  # (n, n_values)
    config: ZooConfig

    @property
    def classes(self) -> tuple[str, ...]:
        """Emotions of the protocol."""
        return get_protocol(self.protocol).classes

    def target(self, rows: np.ndarray) -> np.ndarray:
        """Class index of each row."""
        return np.array([self.classes.index(self.dataset.utterances[row].emotion) for row in rows], dtype=np.int64)

    def speaker(self, rows: np.ndarray) -> np.ndarray:
        """Speaker id of each row."""
        return np.array([self.dataset.utterances[row].speaker_id for row in rows])

    def inner_folds(self, rows: np.ndarray) -> InnerFolds:
        """Deal rows into inner folds by speaker."""
        return InnerFolds.deal(self.vectors[rows], self.target(rows), self.speaker(rows), len(self.classes),
                               n_folds=self.config.n_inner_folds, seed=self.config.seed)  # fmt: skip


def search_zoo(
    root: Path,
    protocol: str,
    run_dir: Path,
    config: ZooConfig = ZooConfig(),
    *,
    folds: Sequence[int] | None = None,
    n_threads: int = 1,
    cache_dir: Path | None = None,
    on_decode: Callable[[int, int], None] | None = None,
    on_extract: Callable[[int, int], None] | None = None,
    on_family: OnFamily | None = None,
) -> dict[str, Any]:
    """Search every family of the zoo in every fold of a protocol, test each once, and return the results.

    What a fold answers with is the family with the best UAR on its inner folds. The other families are tested beside
    it, for the table only.

    Parameters
    ----------
    run_dir
        Made if missing; what it holds of the same search is read back, not done again.
    folds
        Which to run; None means all that the corpora on disk allow.
    n_threads
        Settings tried at a time.
    on_family
        Called with (fold, families done, families in all, family, its UAR on inner folds).

    Raises
    ------
    SearchError
        If ``run_dir`` holds another search, or the protocol tests nothing.
    LeakError
        If a protocol that promises disjoint speakers does not hold; nothing is fitted then.
    """
    material = load_material(root, protocol, config, cache_dir=cache_dir, on_decode=on_decode, on_extract=on_extract)
    utterances, digests = material.dataset.utterances, material.dataset.waveforms.digests
    chosen = list_folds(protocol, utterances) if folds is None else sorted(set(folds))
    splits = {fold: build_split(protocol, utterances, fold, digests=digests) for fold in chosen}
    audits = {fold: audit_split(split, utterances, digests) for fold, split in splits.items()}
    for audit in audits.values():
        audit.check()
    run_dir.mkdir(parents=True, exist_ok=True)
    done = {}
    for fold, split in splits.items():
        done[fold] = _search_fold(material, split, run_dir / f"fold-{fold}", n_threads, on_family)
    results = _summarise(material, splits, audits, done)
    results["random_split"] = _try_random_split(material, splits, done, run_dir)
    write_file(run_dir / "results.json", json.dumps(results))
    _write_tables(results, done, run_dir)
    return results


def load_material(
    root: Path,
    protocol: str,
    config: ZooConfig,
    *,
    cache_dir: Path | None = None,
    on_decode: Callable[[int, int], None] | None = None,
    on_extract: Callable[[int, int], None] | None = None,
) -> Material:
    """Decode a protocol's corpora and compute the vectors of their clips."""
    wanted = get_protocol(protocol)
    if wanted is SHIPPED or wanted.tests_copies:
        raise SearchError(f"{protocol!r} cannot be searched: it tests nothing, or altered copies; name another")
    section = feature_section(config.features)
    build_vector_features(section)  # refuses what does not fit before anything is decoded
    dataset = load_dataset(root, None if wanted.optional_corpora else wanted.corpora, cache_dir=cache_dir,
                           progress=on_decode)  # fmt: skip
    vectors = extract_vectors(section, dataset.waveforms, cache_dir=cache_dir, progress=on_extract)
    return Material(dataset, protocol, section, vectors, config)


def _search_fold(
    material: Material, split: Split, folder: Path, n_threads: int, on_family: OnFamily | None
) -> dict[str, dict[str, Any]]:
    """Search and test each family on a fold; return what their files hold, by family."""
    heard = np.sort(np.concatenate([split.train, split.dev]))
    inner = material.inner_folds(heard)
    names = material.config.names
    found = {}
    for n_done, name in enumerate(names, 1):
        path = folder / f"{name}.json"
        identity = _identify(material, split, name)
        if path.exists():
            found[name] = _read_back(path, identity)
        else:
            folder.mkdir(parents=True, exist_ok=True)
            found[name] = _search_and_test(material, split, name, inner, n_threads) | {"identity": identity}
            write_file(path, json.dumps(found[name]))
        if on_family is not None:
            on_family(split.fold, n_done, len(names), name, found[name]["inner_uar"])
    return found


def _search_and_test(material: Material, split: Split, name: str, inner: InnerFolds, n_threads: int) -> dict[str, Any]:
    """Choose a family's settings on inner folds, refit it on train and dev, and test it: once."""
    family, config = get_family(name), material.config
    started = time.perf_counter()
    found = search_family(family, inner, method=config.method, n_trials=config.n_trials, n_threads=n_threads)
    with convergence_ignored():
        temperature = fit_temperature(inner.unseen_logits(family, found.settings), inner.target)
        pipeline = fit_family(family, found.settings, inner.vectors, inner.target, seed=config.seed)
    logits = compute_zoo_logits(pipeline, material.vectors[split.test], len(material.classes))
    target = material.target(split.test)
    return {
        "fold": split.fold,
        "family": name,
        **_describe(found),
        "temperature": temperature,
        "uar": mean_recall(target, logits.argmax(axis=1)),
        "war": float((logits.argmax(axis=1) == target).mean()),
        "seconds": round(time.perf_counter() - started, 1),
        "test": [material.dataset.utterances[row].utterance_id for row in split.test],
        "test_logits": rounded(logits),
    }


def _describe(found: Found) -> dict[str, Any]:
    return {
        "settings": found.settings,
        "inner_uar": found.uar,
        "trials": [asdict(trial) for trial in found.trials],
    }


def _identify(material: Material, split: Split, family: str) -> str:
    """Hash of all that a finished family of a fold depends on."""
    config = material.config
    digests = material.dataset.waveforms.digests
    content = [
        material.protocol,
        split.fold,
        material.section,
        family,
        get_family(family).grid,
        [config.method, config.n_trials, config.n_inner_folds, config.seed],
        [[digests[row] for row in rows] for rows in split.parts.values()],
    ]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _read_back(path: Path, identity: str) -> dict[str, Any]:
    result = json.loads(path.read_text(encoding="utf-8"))
    if result.get("identity") != identity:
        raise SearchError(
            f"{path.parent} holds a search with other features, clips, trials or seed; "
            "choose another folder or remove it"
        )
    return result


# ---------------------------------------------------------------------------------------------- results


def _summarise(
    material: Material,
    splits: Mapping[int, Split],
    audits: Mapping[int, Audit],
    done: Mapping[int, Mapping[str, dict[str, Any]]],
) -> dict[str, Any]:
    """Results of the folds: the winners' scores, and the families' beside them."""
    protocol = get_protocol(material.protocol)
    config = material.config
    winners = {fold: _best(results) for fold, results in done.items()}
    pooled = _score(material, splits, {fold: done[fold][name] for fold, name in winners.items()})
    rows = []
    for name in config.names:
        own = {fold: results[name] for fold, results in done.items()}
        scored = _score(material, splits, own)["scores"]
        rows.append(
            {
                "family": name,
                "title": get_family(name).title,
                "inner_uar": float(np.mean([result["inner_uar"] for result in own.values()])),
                **{key: scored[key] for key in ("uar", "war", "intervals")},
                "folds_won": [fold for fold, winner in winners.items() if winner == name],
                "seconds": round(sum(result["seconds"] for result in own.values()), 1),
                "settings": {str(fold): result["settings"] for fold, result in own.items()},
            }
        )
    return {
        "protocol": protocol.name,
        "description": protocol.description,
        "features": config.features,
        "section": material.section,
        "n_values": material.vectors.shape[1],
        "config": asdict(config),
        "classes": list(material.classes),
        "folds": list(done),
        "n_folds": protocol.n_folds,
        "banner": next(iter(audits.values())).banner,
        "audits": {str(fold): audit.to_json() for fold, audit in audits.items()},
        "winners": {str(fold): name for fold, name in winners.items()},
        **pooled,
        "families": sorted(rows, key=lambda row: -row["inner_uar"]),
    }


def _best(results: Mapping[str, dict[str, Any]]) -> str:
    return max(results, key=lambda name: results[name]["inner_uar"])


def _score(
    material: Material, splits: Mapping[int, Split], results: Mapping[int, dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Scores over the test clips of all folds, and by corpus where there are several."""
    rows = np.concatenate([splits[fold].test for fold in results])
    probs = np.concatenate(
        [softmax(np.array(result["test_logits"]), temperature=result["temperature"]) for result in results.values()]
    )
    clips = [material.dataset.utterances[row] for row in rows]
    who: dict[str, Any] = {"speakers": [clip.speaker_id for clip in clips], "sexes": [clip.sex for clip in clips]}
    target = material.target(rows)
    scored: dict[str, Any] = {"scores": scores(target, probs, classes=material.classes, **who)}
    corpora = [clip.corpus for clip in clips]
    if len(set(corpora)) > 1:
        scored["corpora"] = scores_by_corpus(target, probs, classes=material.classes, corpora=corpora,
                                             corpus_classes=CORPUS_CLASSES, **who)  # fmt: skip
    return scored


def _try_random_split(
    material: Material, splits: Mapping[int, Split], done: Mapping[int, Mapping[str, dict[str, Any]]], run_dir: Path
) -> dict[str, Any]:
    """Measure what the winners get when the same clips are dealt by chance: as many parts as folds, each tested once.

    A fold's winner keeps its family and settings; only who is trained on and who is tested changes.
    """
    from sklearn.model_selection import StratifiedKFold

    path = run_dir / "random-split.json"
    identity = hashlib.sha256(
        json.dumps([[fold, done[fold][_best(done[fold])]["identity"]] for fold in done]).encode()
    ).hexdigest()[:16]
    if path.exists() and (stored := json.loads(path.read_text(encoding="utf-8"))).get("identity") == identity:
        return stored
    rows = np.unique(np.concatenate([np.concatenate(list(split.parts.values())) for split in splits.values()]))
    target = material.target(rows)
    n_parts = max(2, get_protocol(material.protocol).n_folds)
    dealer = StratifiedKFold(n_parts, shuffle=True, random_state=material.config.seed)
    parts = list(dealer.split(rows, target))
    tested, predicted, banner = [], [], ""
    for number, fold in enumerate(done):
        winner = done[fold][_best(done[fold])]
        train, test = parts[number % n_parts]
        with convergence_ignored():
            pipeline = fit_family(get_family(winner["family"]), winner["settings"], material.vectors[rows[train]],
                                  target[train], seed=material.config.seed)  # fmt: skip
        logits = compute_zoo_logits(pipeline, material.vectors[rows[test]], len(material.classes))
        predicted.append(softmax(logits, temperature=winner["temperature"]))
        tested.append(test)
        banner = banner or _audit_random(material, rows[train], rows[test]).banner
    everywhere = np.concatenate(tested)
    scored = scores(target[everywhere], np.concatenate(predicted), classes=material.classes,
                    speakers=material.speaker(rows[everywhere]).tolist())  # fmt: skip
    result = {"name": RANDOM_SPLIT, "banner": banner, "n_parts": n_parts, "identity": identity,
              **{key: scored[key] for key in ("uar", "war", "n_utterances")}}  # fmt: skip
    write_file(path, json.dumps(result))
    return result


def _audit_random(material: Material, train: np.ndarray, test: np.ndarray) -> Audit:
    utterances = material.dataset.utterances
    return audit_parts(
        {"train": train, "test": test},
        name=RANDOM_SPLIT,
        clips=[clip.utterance_id for clip in utterances],
        speakers=[clip.speaker_id for clip in utterances],
        digests=material.dataset.waveforms.digests,
        speaker_disjoint=False,
        expected_leak=LEAKS,
    )


def _write_tables(results: Mapping[str, Any], done: Mapping[int, Mapping[str, dict[str, Any]]], run_dir: Path) -> None:
    """Write ``results.csv``, a row per fold and family, and ``trials.csv``, a row per setting that was tried."""
    rows, trials = [], []
    for fold, families in done.items():
        for name, result in families.items():
            kept = {key: result[key] for key in ("fold", "family", "inner_uar", "uar", "war", "temperature", "seconds")}
            is_winner = results["winners"][str(fold)] == name
            rows.append(kept | {"chosen": is_winner, "settings": json.dumps(result["settings"])})
            trials += [
                {"fold": fold, "family": name, **trial, "settings": json.dumps(trial["settings"])}
                for trial in result["trials"]
            ]
    _write_csv(run_dir / "results.csv", rows)
    _write_csv(run_dir / "trials.csv", trials)


# ---------------------------------------------------------------------------------------------- the winner as a file


def export_winner(
    root: Path,
    results: Mapping[str, Any],
    out: Path,
    *,
    name: str,
    n_threads: int = 1,
    cache_dir: Path | None = None,
) -> Card:
    """Fit the search's winner on every clip of its protocol, and write it as one model file.

    The family is the one with the best mean UAR on inner folds. Its settings are searched once more, on inner folds of
    all speakers. Nothing is tested on the way: the card carries the scores of the search, as the measure of what such a
    search gives on new speakers.

    Parameters
    ----------
    results
        What :func:`search_zoo` returned.

    Raises
    ------
    ExportError
        If the file would not answer as scikit-learn does; nothing is written then.
    """
    values = results["config"]
    config = ZooConfig(**{**values, "families": tuple(values["families"])})
    material = load_material(root, results["protocol"], config, cache_dir=cache_dir)
    classes, utterances = material.classes, material.dataset.utterances
    corpora = get_protocol(material.protocol).corpora
    rows = np.array([row for row, clip in enumerate(utterances) if clip.corpus in corpora and clip.emotion in classes])
    family = get_family(results["families"][0]["family"])
    inner = material.inner_folds(rows)
    found = search_family(family, inner, method=config.method, n_trials=config.n_trials, n_threads=n_threads)
    with convergence_ignored():
        temperature = fit_temperature(inner.unseen_logits(family, found.settings), inner.target)
        pipeline = fit_family(family, found.settings, inner.vectors, inner.target, seed=config.seed)
    return export_classic(
        material.section,
        family.name,
        found.settings,
        pipeline,
        temperature,
        out,
        parity_clips([utterances[row] for row in rows]),
        labels=classes,
        corpora=_training_corpora(material, rows),
        name=name,
        scores={material.protocol: scores_for_card(results)},
    )


def scores_for_card(results: Mapping[str, Any]) -> dict[str, Any]:
    """Scores of a search for a card's ``scores[protocol]``: on new speakers, and what leaking would have given."""
    own, random = results["scores"], results["random_split"]
    return {
        "folds": results["folds"],
        "n_folds": results["n_folds"],
        "command": command_of(results),
        "seed": results["config"]["seed"],
        **{key: own[key] for key in ("n_utterances", "n_speakers", "uar", "war", "f1_macro", "ece", "intervals")},
        "random_split": {key: random[key] for key in ("uar", "war", "banner")},
        "measured": "the search's winner of each fold, its family and settings chosen inside the fold",
    }


def command_of(results: Mapping[str, Any]) -> str:
    """Return the command line that repeats a search of the zoo, ``--data ROOT`` to be filled in."""
    config = results["config"]
    words = ["undertone lab search zoo --protocol", results["protocol"], "--data ROOT --features", config["features"]]
    words += ["--method", config["method"], "--trials", str(config["n_trials"])]
    words += ["--families", ",".join(config["families"])] if config["families"] else []
    words += ["--seed", str(config["seed"])] if config["seed"] else []
    words += ["--folds", ",".join(map(str, results["folds"]))] if len(results["folds"]) < results["n_folds"] else []
    return " ".join(words)


def _training_corpora(material: Material, rows: np.ndarray) -> list[TrainingCorpus]:
    clips = [material.dataset.utterances[row] for row in rows]
    return [
        TrainingCorpus(
            name=name,
            licence=corpus.licence,
            licence_url=corpus.licence_url,
            n_utterances=sum(clip.corpus == name for clip in clips),
            speakers=tuple(sorted({clip.speaker_id for clip in clips if clip.corpus == name})),
        )
        for name, corpus in CORPORA.items()
        if any(clip.corpus == name for clip in clips)
    ]


# ---------------------------------------------------------------------------------------------- networks


@dataclass(frozen=True)
class Dimension:
    """One value of a recipe that a search may change: ``path`` is its section and key.

    A range from ``low`` to ``high``, on a logarithmic scale with ``log``; or ``choices``.
    """

    path: str
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    choices: tuple[Any, ...] = ()


SPACE = (
    Dimension("training.lr", 1e-4, 1e-2, log=True),
    Dimension("training.batch_size", choices=(8, 16, 32, 64)),
    Dimension("training.label_smoothing", 0.0, 0.2),
    Dimension("network.dropout", 0.0, 0.6),
    Dimension("augment.noise_probability", 0.0, 0.8),
    Dimension("augment.tempo", 0.0, 0.25),
    Dimension("augment.warp", 0.0, 0.2),
    Dimension("augment.max_mask_s", 0.05, 0.5),
)


def space_of(recipe: Recipe) -> tuple[Dimension, ...]:
    """Dimensions of ``SPACE`` that a recipe has.

    Dropout only where its network takes one; augmentation only where the recipe augments on the fly: a system that is
    trained without stays one.
    """
    import inspect

    if recipe.members:
        names = ", ".join(member.name for member in recipe.members)
        raise SearchError(f"{recipe.name} is an ensemble; search the settings of one of its members: {names}")
    takes = inspect.signature(NETWORKS[recipe.network["kind"]]).parameters
    augments = recipe.augment != type(recipe.augment)()
    return tuple(
        dimension
        for dimension in SPACE
        if not (dimension.path == "network.dropout" and "dropout" not in takes)
        and not (dimension.path.startswith("augment.") and not augments)
    )


def with_values(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """Return the recipe with other values, by path.

    Examples
    --------
    >>> from undertone.lab.recipes import load_recipe
    >>> with_values(load_recipe("undertone-street"), {"training.lr": 0.5}).training.lr
    0.5
    """
    content = recipe.to_json()
    for path, value in values.items():
        section, key = path.split(".")
        content[section] = {**content[section], key: value}
    return parse_recipe(content)


def search_network(
    root: Path,
    protocol: str,
    recipe: Recipe,
    run_dir: Path,
    *,
    n_trials: int = 20,
    folds: Sequence[int] = (0,),
    seed: int = 0,
    accelerator: str = "auto",
    cache_dir: Path | None = None,
    on_decode: Callable[[int, int], None] | None = None,
    on_trial: Callable[[int, int, dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Search a recipe's settings with Optuna, judged by UAR on the dev speakers of ``folds``; nothing is tested.

    The first trial is the recipe as it is. A trial that is worse than the median of those before it, at the same epoch,
    is given up. The trials stand in ``journal.jsonl`` as they come: a search that was stopped goes on with the trial it
    was in, and a finished one with a larger ``n_trials`` is continued. ``best.toml`` is the best recipe.

    Parameters
    ----------
    n_trials
        In all, those of earlier starts included.
    on_trial
        Called with (trials done, trials in all, the trial's row of the table).

    Raises
    ------
    SearchError
        If ``run_dir`` holds another search, or the protocol has no dev speakers.
    """
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend
    from optuna.trial import TrialState

    wanted = get_protocol(protocol)
    dataset = load_dataset(root, None if wanted.optional_corpora else wanted.corpora, recipe=recipe,
                           cache_dir=cache_dir, progress=on_decode)  # fmt: skip
    digests = dataset.waveforms.digests
    splits = [build_split(protocol, dataset.utterances, fold, digests=digests) for fold in folds]
    for split in splits:
        audit_split(split, dataset.utterances, digests).check()
        if not len(split.dev):
            raise SearchError(f"{protocol} has no dev part to judge settings on; choose another protocol")
    run_dir.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        study_name="search",
        direction="maximize",
        storage=JournalStorage(JournalFileBackend(str(run_dir / "journal.jsonl"))),
        sampler=optuna.samplers.TPESampler(seed=seed),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=recipe.training.epochs // 3),
        load_if_exists=True,
    )
    _claim_study(study, {"recipe_hash": recipe.hash, "protocol": protocol, "folds": list(folds), "seed": seed,
                         "clips": hashlib.sha256(json.dumps(digests).encode()).hexdigest()[:16]}, run_dir)  # fmt: skip
    if not study.trials:
        study.enqueue_trial(_own_values(recipe))
    for trial in study.get_trials(states=(TrialState.RUNNING,)):  # of a start that was stopped
        study.tell(trial.number, state=TrialState.FAIL)
        study.enqueue_trial(trial.params)

    def train(trial: Any) -> float:
        for dimension in space_of(recipe):
            _suggest(trial, dimension)
        changed = with_values(recipe, _rounded_values(trial.params))
        return _dev_uar(dataset, splits, changed, trial, run_dir, seed, accelerator)

    ended = (TrialState.COMPLETE, TrialState.PRUNED)
    while (n_done := len(study.get_trials(states=ended))) < n_trials:
        study.optimize(train, n_trials=1)
        if on_trial is not None:
            on_trial(n_done + 1, n_trials, _trial_row(study.trials[-1]))
    return _write_network_results(study, recipe, protocol, folds, seed, run_dir)


def _claim_study(study: Any, identity: dict[str, Any], run_dir: Path) -> None:
    known = study.user_attrs.get("identity", identity)
    if other := [key for key, value in identity.items() if known.get(key) != value]:
        raise SearchError(
            f"{run_dir} holds a search with another {' and '.join(other)}; choose another folder or remove it"
        )
    study.set_user_attr("identity", identity)


def _suggest(trial: Any, dimension: Dimension) -> Any:
    if dimension.choices:
        return trial.suggest_categorical(dimension.path, dimension.choices)
    return trial.suggest_float(dimension.path, dimension.low, dimension.high, log=dimension.log)


def _rounded_values(params: Mapping[str, Any]) -> dict[str, Any]:
    """Values with three digits: a recipe to read, and to type in again."""
    return {path: float(f"{value:.3g}") if isinstance(value, float) else value for path, value in params.items()}


def _own_values(recipe: Recipe) -> dict[str, Any]:
    """Values of the recipe itself, those that lie inside the space."""
    content = recipe.to_json()
    own = {}
    for dimension in space_of(recipe):
        section, key = dimension.path.split(".")
        value = content[section].get(key)
        inside = value in dimension.choices if dimension.choices else value is not None and (
            dimension.low <= value <= dimension.high)  # fmt: skip
        if inside:
            own[dimension.path] = value
    return own


def _dev_uar(
    dataset: Dataset,
    splits: Sequence[Split],
    recipe: Recipe,
    trial: Any,
    run_dir: Path,
    seed: int,
    accelerator: str,
) -> float:
    """Mean over folds of the best UAR on dev speakers; a hopeless trial is given up at an epoch."""
    import optuna

    reached: list[float] = []
    for number, split in enumerate(splits):

        def report(epoch: int, n_epochs: int, row: dict[str, float], before: int = number) -> None:
            trial.report(float(np.mean([*reached, row["dev_uar"]])), before * n_epochs + epoch)
            if trial.should_prune():
                raise optuna.TrialPruned

        train, dev = dataset.clips(split.train, split.classes), dataset.clips(split.dev, split.classes)
        fabric = make_fabric(precision=recipe.precision, accelerator=accelerator)
        with tempfile.TemporaryDirectory(dir=run_dir, prefix=".trial-") as folder:
            _, history = fit(recipe, split.classes, train, dev, Path(folder), seed=seed, fabric=fabric, on_epoch=report)
        reached.append(max(row["dev_uar"] for row in history.rows))
    return float(np.mean(reached))


def _trial_row(trial: Any) -> dict[str, Any]:
    last = max(trial.intermediate_values, default=None)
    reached = trial.value if trial.value is not None else trial.intermediate_values.get(last)
    seconds = trial.duration.total_seconds() if trial.duration else 0.0
    return {
        "trial": trial.number,
        "state": trial.state.name.lower(),
        "dev_uar": reached,
        "epochs": last or 0,
        "seconds": round(seconds, 1),
        **_rounded_values(trial.params),
    }


def _write_network_results(
    study: Any, recipe: Recipe, protocol: str, folds: Sequence[int], seed: int, run_dir: Path
) -> dict[str, Any]:
    rows = [_trial_row(trial) for trial in study.trials if trial.state.is_finished() and trial.state.name != "FAIL"]
    chosen = _rounded_values(study.best_params)
    results = {
        "protocol": protocol,
        "recipe": recipe.name,
        "folds": list(folds),
        "seed": seed,
        "space": [asdict(dimension) for dimension in space_of(recipe)],
        "best": {"trial": study.best_trial.number, "dev_uar": study.best_value, "values": chosen},
        "own_dev_uar": rows[0]["dev_uar"],
        "best_recipe": str(run_dir / "best.toml"),
        "trials": rows,
    }
    write_file(run_dir / "best.toml", to_toml(with_values(recipe, chosen).to_json()))
    write_file(run_dir / "results.json", json.dumps(results))
    _write_csv(run_dir / "trials.csv", rows)
    return results


def to_toml(content: Mapping[str, Any]) -> str:
    """Write a recipe's values as TOML: a section for each dictionary, lists and deeper dictionaries in a line.

    Examples
    --------
    >>> print(to_toml({"name": "x", "network": {"widths": [4, 8]}}), end="")
    name = "x"
    <BLANKLINE>
    [network]
    widths = [4, 8]
    """
    plain = {key: value for key, value in content.items() if not isinstance(value, Mapping)}
    lines = [f"{key} = {_toml_value(value)}" for key, value in plain.items()]
    for name, section in content.items():
        if isinstance(section, Mapping):
            lines += ["", f"[{name}]", *(f"{key} = {_toml_value(value)}" for key, value in section.items())]
    return "\n".join(lines) + "\n"


def _toml_value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_toml_value(entry)}" for key, entry in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml_value(entry) for entry in value) + "]"
    return json.dumps(value, ensure_ascii=False)  # text, truth values and numbers are written alike


# ---------------------------------------------------------------------------------------------- files


def _write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    text = io.StringIO()
    columns = list(dict.fromkeys(key for row in rows for key in row))
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_file(path, text.getvalue())
