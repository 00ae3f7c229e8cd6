"""The classic estimators with their search grids, on one vector of features per clip.

Conventions: ``vectors`` (n, n_values) float32; ``target`` (n,) class index. Whatever an estimator answers is turned
into ``logits`` (n, n_classes): the logarithm of its probabilities, or its decision values where it has none. Their
largest is what it decides for, and one temperature, fitted on clips it has not seen, makes them probabilities.

Nothing here knows a protocol, a split or a file of a model: see :mod:`undertone.lab.search`.
"""

import hashlib
import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from itertools import product
from math import ceil, prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import (
    AdaBoostClassifier,
    BaggingClassifier,
    ExtraTreesClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
)
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier

from undertone.files import replacing
from undertone.lab import features as features_package
from undertone.lab.data import Waveforms, bucket_batches, default_cache_dir, pad_batch, to_float
from undertone.lab.features import Feature, build_features

MIN_PROB = 1e-6  # a forest may give 0, whose logarithm is no number
EXTRACTION_BATCH = 64  # clips

# Named sets of features, as a recipe's [features]: all end in one vector per clip.
_STATISTICS = ["mean", "std", "p05", "p50", "p95", "mean_abs_delta"]
_SPECTRAL: dict[str, Any] = {
    "kind": "functionals",
    "parts": [{"kind": "mfcc", "n_mfcc": 20, "n_mels": 40, "n_deltas": 2}, {"kind": "log-mel", "n_mels": 24}],
    "statistics": _STATISTICS,
}
FEATURE_SETS: dict[str, dict[str, Any]] = {
    "prosody": {"kind": "prosody-functionals"},
    "spectral": _SPECTRAL,
    "mfcc": _SPECTRAL | {"parts": _SPECTRAL["parts"][:1]},
    "prosody+spectral": {"kind": "stack", "parts": [{"kind": "prosody-functionals"}, _SPECTRAL]},
    "egemaps": {"kind": "opensmile", "feature_set": "eGeMAPSv02"},
    "compare-2016": {"kind": "opensmile", "feature_set": "ComParE_2016"},
}
DEFAULT_FEATURES = "prosody"


class ZooError(ValueError):
    """A family or a set of features that does not exist or does not fit; the message says what to change."""


# ---------------------------------------------------------------------------------------------- families


@dataclass(frozen=True)
class Family:
    """A kind of estimator and the settings that are worth trying.

    Attributes
    ----------
    title
        What people call it.
    build
        Function (seed) -> scikit-learn estimator with class weights where it takes them.
    grid
        Argument of the estimator -> values to try, the likeliest first.
    scaled
        Whether values are standardised before it; trees do not need it.
    balance
        How rare classes get their due: ``"class_weight"`` and ``"priors"`` inside the estimator, ``"clips"`` by a
        weight of each clip, ``"none"``.
    extra
        The extra that it needs; None is in ``lab``.
    """

    name: str
    title: str
    build: Callable[[int], Any]
    grid: Mapping[str, tuple[Any, ...]]
    scaled: bool = True
    balance: str = "class_weight"
    extra: str | None = None

    @property
    def n_settings(self) -> int:
        """Combinations in the grid."""
        return prod(len(values) for values in self.grid.values())

    def settings(self) -> list[dict[str, Any]]:
        """All combinations of the grid, the likeliest first."""
        combinations = sorted(
            product(*(enumerate(values) for values in self.grid.values())), key=lambda c: sum(i for i, _ in c)
        )
        return [dict(zip(self.grid, (value for _, value in chosen), strict=True)) for chosen in combinations]

    def make(self, settings: Mapping[str, Any], seed: int = 0) -> Pipeline:
        """Pipeline, not fitted, with these arguments of the estimator."""
        estimator = self.build(seed).set_params(**settings)
        steps = [("scale", StandardScaler())] if self.scaled else []
        return Pipeline([*steps, ("classify", estimator)])


def _tree(seed: int) -> DecisionTreeClassifier:
    return DecisionTreeClassifier(class_weight="balanced", random_state=seed)


def _lightgbm(seed: int) -> Any:
    try:
        module = import_module("lightgbm")
    except ImportError as error:
        raise ZooError(
            "'lightgbm' is needed for this family but is not installed; run: pip install 'undertone[boosting]'"
        ) from error
    return module.LGBMClassifier(class_weight="balanced", random_state=seed, n_jobs=1, verbose=-1, subsample_freq=1,
                                 deterministic=True, force_row_wise=True)  # fmt: skip


_FOREST = {
    "min_samples_leaf": (2, 4, 8),
    "max_features": ("sqrt", 0.1, 0.3),
    "max_depth": (None, 12),
    "n_estimators": (200,),
}

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family(
            "svm-rbf",
            "SVM, RBF kernel",
            lambda seed: SVC(class_weight="balanced", random_state=seed, cache_size=500),
            {"C": (10.0, 3.0, 30.0, 1.0), "gamma": (0.001, 0.0003, 0.003, "scale", 0.01)},
        ),
        Family(
            "svm-linear",
            "SVM, linear",
            lambda seed: SVC(kernel="linear", class_weight="balanced", random_state=seed, cache_size=500),
            {"C": (0.01, 0.003, 0.03, 0.1, 0.001, 1.0)},
        ),
        Family(
            "logistic",
            "logistic regression",
            lambda _seed: LogisticRegression(class_weight="balanced", max_iter=1000),
            {"C": (0.01, 0.003, 0.03, 0.1, 0.001, 1.0)},
        ),
        Family(
            "lda",
            "linear discriminant analysis",
            lambda _seed: LinearDiscriminantAnalysis(solver="lsqr"),
            {"shrinkage": (0.3, 0.1, 0.5, "auto", 0.03)},
            balance="priors",
        ),
        Family(
            "sgd",
            "linear, stochastic gradient",
            lambda seed: SGDClassifier(class_weight="balanced", random_state=seed, max_iter=200),
            {
                "alpha": (0.01, 0.001, 0.03, 0.1),
                "loss": ("log_loss", "modified_huber"),
                "penalty": ("l2", "elasticnet"),
                "average": (True, False),
            },
        ),
        Family(
            "knn",
            "k nearest neighbours",
            lambda _seed: KNeighborsClassifier(algorithm="brute"),
            {"n_neighbors": (15, 9, 25, 5, 41), "p": (2, 1)},
            balance="none",
        ),
        Family(
            "mlp",
            "multi-layer perceptron",
            lambda seed: MLPClassifier(random_state=seed, max_iter=120, n_iter_no_change=120),
            {
                "hidden_layer_sizes": ((128,), (256,), (64,), (128, 64)),
                "alpha": (1.0, 0.1, 3.0, 10.0),
                "learning_rate_init": (0.001, 0.0003),
            },
            balance="clips",
        ),
        Family(
            "forest",
            "random forest",
            lambda seed: RandomForestClassifier(class_weight="balanced", random_state=seed),
            _FOREST,
            scaled=False,
        ),
        Family(
            "extra-trees",
            "extremely random trees",
            lambda seed: ExtraTreesClassifier(class_weight="balanced", random_state=seed),
            _FOREST,
            scaled=False,
        ),
        Family(
            "boosting",
            "gradient boosting, histograms",
            lambda seed: HistGradientBoostingClassifier(
                class_weight="balanced",
                random_state=seed,
                early_stopping=False,  # type: ignore[arg-type]  # its own dev clips would share their speakers
            ),
            {
                "learning_rate": (0.1, 0.05),
                "max_iter": (50, 100),
                "max_leaf_nodes": (7, 15),
                "l2_regularization": (1.0, 10.0),
                "max_features": (0.2, 1.0),
            },
            scaled=False,
        ),
        Family(
            "bagging",
            "bagged trees",
            lambda seed: BaggingClassifier(_tree(seed), random_state=seed),
            {
                "n_estimators": (100,),
                "max_features": (0.3, 0.1, 1.0),
                "max_samples": (1.0, 0.5),
                "estimator__min_samples_leaf": (2, 5),
            },
            scaled=False,
        ),
        Family(
            "adaboost",
            "AdaBoost of small trees",
            lambda seed: AdaBoostClassifier(_tree(seed).set_params(max_features="sqrt"), random_state=seed),
            {
                "estimator__max_depth": (4, 6, 2),
                "n_estimators": (150, 300),
                "learning_rate": (0.5, 1.0),
            },
            scaled=False,
        ),
        Family(
            "lightgbm",
            "LightGBM",
            _lightgbm,
            {
                "n_estimators": (100, 200),
                "learning_rate": (0.05, 0.1),
                "num_leaves": (7, 15),
                "colsample_bytree": (0.2, 0.5),
                "reg_lambda": (1.0, 10.0),
                "subsample": (0.8,),
                "min_child_samples": (5, 20),
            },
            scaled=False,
            extra="boosting",
        ),
    )
}


def get_family(name: str) -> Family:
    """Find a family by its name.

    Raises
    ------
    ZooError
        If there is none; the message lists those there are.
    """
    if name not in FAMILIES:
        raise ZooError(f"there is no family {name!r} in the zoo; there are: {', '.join(FAMILIES)}")
    return FAMILIES[name]


def installed_families() -> list[str]:
    """Names of the families that can be used with what is installed."""
    from importlib.util import find_spec

    return [name for name, family in FAMILIES.items() if family.extra is None or find_spec("lightgbm")]


def fit_family(
    family: Family, settings: Mapping[str, Any], vectors: np.ndarray, target: np.ndarray, *, seed: int = 0
) -> Pipeline:
    """Fit a family's pipeline with these settings.

    Parameters
    ----------
    vectors : (n, n_values)
    target : (n,) int64
        Class index; a class that is missing here is never decided for.
    """
    if "n_neighbors" in settings:
        settings = {**settings, "n_neighbors": min(settings["n_neighbors"], len(target))}
    pipeline = family.make(settings, seed)
    weights = {}
    if family.balance == "clips":
        counts = np.bincount(target)
        weights["classify__sample_weight"] = (len(target) / (np.count_nonzero(counts) * counts))[target]
    elif family.balance == "priors":
        n_present = len(np.unique(target))
        pipeline.set_params(classify__priors=np.full(n_present, 1 / n_present))
    return pipeline.fit(vectors, target, **weights)


@contextmanager
def convergence_ignored() -> Iterator[None]:
    """Let estimators stop before they have converged without a word: the score says what such settings are worth."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield


def compute_zoo_logits(pipeline: Pipeline, vectors: np.ndarray, n_classes: int) -> np.ndarray:
    """Logits of a fitted pipeline, (n, n_classes) float32; lowest of all where it knows no such class.

    They are the logarithm of its probabilities, or its decision values where it gives no probabilities (an SVM): both
    as the exported file computes them.
    """
    if hasattr(pipeline, "predict_proba"):
        own = np.log(np.clip(pipeline.predict_proba(vectors), MIN_PROB, 1.0))
    else:
        own = pipeline.decision_function(vectors)
        if own.ndim == 1:  # two classes
            own = np.stack([-own, own], axis=1)
    logits = np.full((len(vectors), n_classes), own.min() - 10.0, dtype=np.float32)
    logits[:, pipeline.classes_] = own
    return logits


# ---------------------------------------------------------------------------------------------- vectors


def feature_section(name: str | Path) -> dict[str, Any]:
    """Return the ``[features]`` section called ``name``, or that of a TOML file (a recipe, for example).

    Raises
    ------
    ZooError
        If it is neither, or does not give one vector per clip.
    """
    import tomllib

    if str(name) in FEATURE_SETS:
        return FEATURE_SETS[str(name)]
    try:
        content = tomllib.loads(Path(name).read_text(encoding="utf-8"))
    except OSError:
        raise ZooError(f"no set of features is called {str(name)!r}, and there is no such file; "
                       f"there are: {', '.join(FEATURE_SETS)}") from None  # fmt: skip
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ZooError(f"{name} is not a TOML file: {error}") from error
    if not isinstance(content.get("features"), dict):
        raise ZooError(f"{name} has no [features]")
    return content["features"]


def build_vector_features(section: Mapping[str, Any]) -> Feature:
    """Build the module that gives one vector per clip.

    Raises
    ------
    ZooError
        If it gives frames, or cannot be built.
    """
    try:
        features = build_features(section)
    except (TypeError, ValueError, ImportError) as error:
        raise ZooError(f"[features]: {error}") from error
    if features.n_frames != 1:
        raise ZooError(
            f"the zoo needs one vector per clip, and {section['kind']} gives frames; put them into kind 'functionals'"
        )
    return features.eval()


@torch.inference_mode()
def compute_vectors(
    section: Mapping[str, Any], waveforms: Waveforms, *, progress: Callable[[int, int], None] | None = None
) -> np.ndarray:
    """Vectors of clips, (n, n_values) float32, computed in batches.

    Parameters
    ----------
    section
        A recipe's ``[features]`` that give one vector per clip.
    progress
        Called with (clips done, clips in all).

    Raises
    ------
    ZooError
        If a clip gives a value that is not finite.
    """
    features = build_vector_features(section)
    vectors = np.zeros((len(waveforms), features.n_features), dtype=np.float32)
    done = 0
    for rows in bucket_batches(waveforms.n_samples, EXTRACTION_BATCH):
        waveform, lengths = pad_batch([to_float(waveforms.clips[row]) for row in rows])
        vectors[rows] = features(torch.from_numpy(waveform), torch.from_numpy(lengths))[0][:, :, 0].numpy()
        done += len(rows)
        if progress is not None:
            progress(done, len(waveforms))
    if len(bad := np.flatnonzero(~np.isfinite(vectors).all(axis=1))):
        raise ZooError(f"the features of {len(bad)} clips are not finite, of the first in row {bad[0]}")
    return vectors


def extract_vectors(
    section: Mapping[str, Any],
    waveforms: Waveforms,
    *,
    cache_dir: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """:func:`compute_vectors`, once: kept in ``cache_dir`` (None: where decoded clips are) and read back.

    They are computed anew when a clip, the section or the code of the features changes.
    """
    folder = default_cache_dir() if cache_dir is None else Path(cache_dir)
    stored = folder / f"vectors-{_vector_key(section, waveforms)}.npy"
    if stored.exists():
        return np.load(stored)
    vectors = compute_vectors(section, waveforms, progress=progress)
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(stored) as temporary, temporary.open("wb") as file:
        np.save(file, vectors)
    return vectors


def _vector_key(section: Mapping[str, Any], waveforms: Waveforms) -> str:
    """Hash of all that vectors depend on: section, audio, and the source of the features."""
    digest = hashlib.sha256(json.dumps([section, list(waveforms.digests)], sort_keys=True).encode())
    for path in sorted(Path(str(features_package.__file__)).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


# ---------------------------------------------------------------------------------------------- search in one family


@dataclass(frozen=True)
class Trial:
    """Settings that were tried.

    Attributes
    ----------
    uar
        Mean unweighted average recall over the inner folds, whose speakers the estimator has not heard.
    share
        Share of the inner training speakers it was fitted on: below 1 in the early rounds of a halving.
    """

    settings: dict[str, Any]
    uar: float
    share: float


@dataclass(frozen=True)
class Found:
    """What a search has chosen, and everything it tried."""

    settings: dict[str, Any]
    uar: float
    trials: list[Trial] = field(default_factory=list)


@dataclass(frozen=True)
class InnerFolds:
    """Clips that a search may see, dealt into folds by speaker.

    Attributes
    ----------
    vectors : (n, n_values) float32
    target : (n,) int64
    speaker : (n,)
        Speaker of each clip; one never stands on both sides of an inner fold.
    folds
        (train, dev) rows of each.
    """

    vectors: np.ndarray
    target: np.ndarray
    speaker: np.ndarray
    n_classes: int
    folds: list[tuple[np.ndarray, np.ndarray]]
    seed: int = 0

    @classmethod
    def deal(
        cls, vectors: np.ndarray, target: np.ndarray, speaker: np.ndarray, n_classes: int, *, n_folds: int, seed: int
    ) -> "InnerFolds":
        """Deal clips into ``n_folds`` folds with disjoint speakers and similar classes, fewer with few speakers.

        Raises
        ------
        ZooError
            If there is only one speaker: no setting could be tried on another voice.
        """
        from sklearn.model_selection import StratifiedGroupKFold

        n_speakers = len(np.unique(speaker))
        if n_speakers < 2:
            raise ZooError("a search needs at least two training speakers; there is one: use another protocol")
        n_folds = min(n_folds, n_speakers)
        dealer = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed)
        try:
            folds = list(dealer.split(vectors, target, speaker))
        except ValueError as error:
            raise ZooError(f"these clips cannot be dealt into {n_folds} folds by speaker: {error}") from error
        return cls(vectors, target, speaker, n_classes, folds, seed)

    def score(self, family: Family, settings: Mapping[str, Any], share: float = 1.0) -> float:
        """Mean UAR over the folds of an estimator fitted on a share of each fold's training speakers."""
        scores = []
        for number, (train, dev) in enumerate(self.folds):
            rows = self._thin(train, share, number)
            pipeline = fit_family(family, settings, self.vectors[rows], self.target[rows], seed=self.seed)
            predicted = compute_zoo_logits(pipeline, self.vectors[dev], self.n_classes).argmax(axis=1)
            scores.append(mean_recall(self.target[dev], predicted))
        return float(np.mean(scores))

    def unseen_logits(self, family: Family, settings: Mapping[str, Any]) -> np.ndarray:
        """Logits of every clip by an estimator that has not heard its speaker, (n, n_classes)."""
        logits = np.zeros((len(self.target), self.n_classes), dtype=np.float32)
        for train, dev in self.folds:
            pipeline = fit_family(family, settings, self.vectors[train], self.target[train], seed=self.seed)
            logits[dev] = compute_zoo_logits(pipeline, self.vectors[dev], self.n_classes)
        return logits

    def _thin(self, train: np.ndarray, share: float, number: int) -> np.ndarray:
        """Rows of a share of the speakers, the same ones for every setting."""
        speakers = np.unique(self.speaker[train])
        kept = np.random.default_rng([self.seed, number]).permutation(speakers)[: ceil(share * len(speakers))]
        return train[np.isin(self.speaker[train], kept)]


def mean_recall(target: np.ndarray, predicted: np.ndarray) -> float:
    """UAR over the classes that are there, in [0, 1].

    Examples
    --------
    >>> mean_recall(np.array([0, 0, 2]), np.array([0, 1, 2]))
    0.75
    """
    return float(np.mean([(predicted[target == index] == index).mean() for index in np.unique(target)]))


def search_family(
    family: Family,
    folds: InnerFolds,
    *,
    method: str = "halving",
    n_trials: int = 12,
    n_threads: int = 1,
) -> Found:
    """Search a family's grid for the settings with the best UAR on speakers that were not heard.

    Parameters
    ----------
    method
        ``"grid"`` tries all settings; ``"random"`` ``n_trials`` of them; ``"halving"`` as many, at first on few
        speakers: each round keeps the better third and triples the speakers (Jamieson & Talwalkar 2016,
        arXiv:1502.07943); ``"optuna"`` draws ``n_trials`` with a tree-structured Parzen estimator.
    n_threads
        Settings tried at a time; the result does not depend on it.

    Raises
    ------
    ZooError
        If there is no such method.
    """
    if method not in METHODS:
        raise ZooError(f"there is no search method {method!r}; there are: {', '.join(METHODS)}")
    with convergence_ignored():  # here, not in the threads: filters of warnings belong to the whole process
        trials = list(METHODS[method](family, folds, n_trials, n_threads))
    best = max((trial for trial in trials if trial.share == 1), key=lambda trial: trial.uar)
    return Found(best.settings, best.uar, trials)


def _try_all(
    family: Family, folds: InnerFolds, settings: Sequence[dict[str, Any]], share: float, n_threads: int
) -> list[Trial]:
    with ThreadPoolExecutor(n_threads) as pool:
        scores = list(pool.map(lambda chosen: folds.score(family, chosen, share), settings))
    return [Trial(chosen, score, share) for chosen, score in zip(settings, scores, strict=True)]


def _draw(family: Family, n_trials: int, seed: int) -> list[dict[str, Any]]:
    """Draw settings of the grid without repetition; the likeliest always is among them."""
    settings = family.settings()
    rest = np.random.default_rng(seed).permutation(len(settings) - 1)[: max(0, n_trials - 1)] + 1
    return [settings[0], *(settings[index] for index in rest)]


def _search_grid(family: Family, folds: InnerFolds, _n_trials: int, n_threads: int) -> list[Trial]:
    return _try_all(family, folds, family.settings(), 1.0, n_threads)


def _search_random(family: Family, folds: InnerFolds, n_trials: int, n_threads: int) -> list[Trial]:
    return _try_all(family, folds, _draw(family, n_trials, folds.seed), 1.0, n_threads)


def _search_halving(family: Family, folds: InnerFolds, n_trials: int, n_threads: int) -> list[Trial]:
    left, trials = _draw(family, n_trials, folds.seed), []
    rounds = 1
    while 3**rounds <= len(left) and rounds < 3:
        rounds += 1
    for number in reversed(range(rounds)):
        tried = _try_all(family, folds, left, 3.0**-number, n_threads)
        trials += tried
        ranked = sorted(tried, key=lambda trial: -trial.uar)
        left = [trial.settings for trial in ranked[: ceil(len(ranked) / 3)]]
    return trials


def _search_optuna(family: Family, folds: InnerFolds, n_trials: int, _n_threads: int) -> Iterator[Trial]:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=folds.seed))
    study.enqueue_trial(dict.fromkeys(family.grid, 0))  # the likeliest first
    known: dict[str, float] = {}
    for _ in range(n_trials):
        asked = study.ask()
        chosen = {
            name: values[asked.suggest_categorical(name, list(range(len(values))))]  # values may be tuples
            for name, values in family.grid.items()
        }
        key = json.dumps(chosen)
        if key not in known:
            known[key] = folds.score(family, chosen)
            yield Trial(chosen, known[key], 1.0)
        study.tell(asked, known[key])


METHODS: dict[str, Callable[[Family, InnerFolds, int, int], Any]] = {
    "halving": _search_halving,
    "random": _search_random,
    "grid": _search_grid,
    "optuna": _search_optuna,
}
