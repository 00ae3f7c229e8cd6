"""Every recipe, and every family of the zoo, as a scikit-learn classifier of waveforms."""

import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from undertone.audio import load_waveform
from undertone.lab.augment import apply_steps
from undertone.lab.data import Waveforms, to_float, to_int16
from undertone.lab.evaluation.calibration import fit_temperature, softmax
from undertone.lab.recipes import Recipe, load_recipe
from undertone.lab.training import LabelledClips, compute_logits, fit, make_fabric
from undertone.lab.zoo import (
    DEFAULT_FEATURES,
    FAMILIES,
    InnerFolds,
    compute_vectors,
    compute_zoo_logits,
    feature_section,
    fit_family,
)

N_INNER_FOLDS = 4  # of a zoo family's own clips, to fit its temperature


class EstimatorError(ValueError):
    """Clips or labels that cannot be fitted; the message says what to change."""


class EmotionClassifier(ClassifierMixin, BaseEstimator):
    """A recipe's network, or a family of the zoo, as a scikit-learn classifier: waveforms in, labels out.

    Fitting a network keeps some clips aside (``dev_share``) that choose the epoch and the temperature: all of some
    speakers where ``groups`` are given, else some of each class.

    Parameters
    ----------
    recipe
        Name of a recipe, a TOML file, or a family of the zoo such as ``"svm-rbf"``.
    classes
        Labels that the classifier is to know; None means those it is fitted on. It answers in sorted order, as
        scikit-learn's scores expect.
    epochs
        Passes over the clips, if not the recipe's; networks only.
    seed
        Decides every random number.
    dev_share
        Share of the clips, or of the groups, that is kept aside; 0 keeps none: the last epoch and temperature 1 stand.
        Networks only.
    features
        Set of features of a zoo family, as in :func:`undertone.lab.zoo.feature_section`.
    settings
        Arguments of a zoo family's estimator; None means the likeliest of its grid.
    accelerator
        ``"auto"``, ``"cpu"`` or ``"gpu"``.

    Attributes
    ----------
    model_
        Fitted pipeline or network.
    classes_ : (n_classes,)
        Labels in the order of the probabilities.
    temperature_ : float
        What logits are divided by before they become probabilities.

    Examples
    --------
    >>> from sklearn.base import clone
    >>> clone(EmotionClassifier("svm-rbf", seed=3)).get_params()["seed"]
    3
    """

    model_: Any

    def __init__(
        self,
        recipe: str = "undertone-small",
        *,
        classes: Sequence[Any] | None = None,
        epochs: int | None = None,
        seed: int = 0,
        dev_share: float = 0.15,
        features: str = DEFAULT_FEATURES,
        settings: Mapping[str, Any] | None = None,
        accelerator: str = "auto",
    ):
        self.recipe = recipe
        self.classes = classes
        self.epochs = epochs
        self.seed = seed
        self.dev_share = dev_share
        self.features = features
        self.settings = settings
        self.accelerator = accelerator

    def fit(self, X: Sequence[Any] | np.ndarray, y: Sequence[Any] | np.ndarray, groups: Any = None) -> Self:
        """Fit on clips and their labels.

        Parameters
        ----------
        X : (n,)
            Waveforms, (n_samples,) float32 at 16 kHz in [-1, 1] each, or paths of sound files.
        y : (n,)
            Labels.
        groups : (n,)
            Speaker of each clip. In a cross-validation, scikit-learn's metadata routing hands them on
            (``set_fit_request(groups=True)``), or ``cross_val_score(..., params={"groups": ...})`` does.

        Raises
        ------
        EstimatorError
            If clips, labels and groups differ in number, or a label is not among ``classes``.
        AudioError
            If a file cannot be read.
        """
        labels = np.asarray(y)
        groups = None if groups is None else np.asarray(groups)
        clips = as_clips(X)
        if labels.shape != (len(clips),) or (groups is not None and groups.shape != labels.shape):
            raise EstimatorError(f"expected one label and one group for each of the {len(clips)} clips")
        self.classes_ = np.unique(labels if self.classes is None else np.asarray(self.classes))
        if unknown := sorted(set(labels.tolist()) - set(self.classes_.tolist())):
            raise EstimatorError(f"the label {unknown[0]!r} is not among the classes")
        if len(self.classes_) < 2:
            raise EstimatorError("a classifier needs at least two classes")
        target = np.searchsorted(self.classes_, labels).astype(np.int64)
        if self.recipe in FAMILIES:
            self._fit_zoo(clips, target, groups)
        else:
            self._fit_network(clips, target, groups)
        return self

    def decision_function(self, X: Sequence[Any] | np.ndarray) -> np.ndarray:
        """Logits of clips, (n, n_classes), before the temperature."""
        check_is_fitted(self)
        clips = as_clips(X)
        if self.recipe in FAMILIES:
            return compute_zoo_logits(self.model_, self._vectors(clips), len(self.classes_))
        return compute_logits(self.model_, clips)

    def predict_proba(self, X: Sequence[Any] | np.ndarray) -> np.ndarray:
        """Probabilities of clips, (n, n_classes), in the order of ``classes_``."""
        return softmax(self.decision_function(X), temperature=self.temperature_)

    def predict(self, X: Sequence[Any] | np.ndarray) -> np.ndarray:
        """Return the likeliest label of each clip, (n,)."""
        logits = self.decision_function(X)
        return self.classes_[logits.argmax(axis=1)]

    def _fit_zoo(self, clips: Waveforms, target: np.ndarray, groups: np.ndarray | None) -> None:
        family = FAMILIES[self.recipe]
        settings = family.settings()[0] | dict(self.settings or {})
        vectors = self._vectors(clips)
        self.model_ = fit_family(family, settings, vectors, target, seed=self.seed)
        alone = np.arange(len(target)) if groups is None else np.unique(groups, return_inverse=True)[1]
        inner = InnerFolds.deal(vectors, target, alone, len(self.classes_), n_folds=N_INNER_FOLDS, seed=self.seed)
        self.temperature_ = fit_temperature(inner.unseen_logits(family, settings), target)

    def _fit_network(self, clips: Waveforms, target: np.ndarray, groups: np.ndarray | None) -> None:
        recipe = load_recipe(self.recipe)
        if self.epochs is not None:
            recipe = recipe.with_training(epochs=self.epochs)
        is_dev = self._draw_dev(target, groups)
        train, dev = (self._label(clips, target, groups, rows) for rows in (~is_dev, is_dev))
        train = add_copies(train, recipe)
        fabric = make_fabric(precision=recipe.precision, accelerator=self.accelerator)
        with tempfile.TemporaryDirectory() as folder:
            self.model_, _ = fit(recipe, tuple(map(str, self.classes_)), train, dev if len(dev) else None,
                                 Path(folder), seed=self.seed, fabric=fabric)  # fmt: skip
        self.temperature_ = 1.0
        if len(dev):
            self.temperature_ = fit_temperature(compute_logits(self.model_, dev.waveforms), dev.target)

    def _vectors(self, clips: Waveforms) -> np.ndarray:
        return compute_vectors(feature_section(self.features), clips)

    def _label(
        self, clips: Waveforms, target: np.ndarray, groups: np.ndarray | None, chosen: np.ndarray
    ) -> LabelledClips:
        rows = np.flatnonzero(chosen)
        speaker = rows if groups is None else np.unique(groups, return_inverse=True)[1][rows]
        allowed = np.ones((len(rows), len(self.classes_)), dtype=bool)
        return LabelledClips(clips.select(rows), target[rows], np.zeros(len(rows), dtype=np.int64), speaker, allowed)

    def _draw_dev(self, target: np.ndarray, groups: np.ndarray | None) -> np.ndarray:
        """Which clips are kept aside, (n,) bool: whole groups, or some of each class; always fewer than there are."""
        rng = np.random.default_rng(self.seed)
        is_dev = np.zeros(len(target), dtype=bool)
        if not self.dev_share:
            return is_dev
        if groups is not None:
            names = rng.permutation(np.unique(groups))
            return np.isin(groups, names[: min(len(names) - 1, max(1, round(self.dev_share * len(names))))])
        for index in np.unique(target):
            rows = rng.permutation(np.flatnonzero(target == index))
            is_dev[rows[: min(len(rows) - 1, max(1, round(self.dev_share * len(rows))))]] = True
        return is_dev


def add_copies(train: LabelledClips, recipe: Recipe) -> LabelledClips:
    """Training clips with the altered copies that a recipe asks for; babble is of the same speaker's other clips."""
    clips = train.waveforms

    def alter(row: int, steps: Sequence[Mapping[str, Any]]) -> np.ndarray:
        own = np.flatnonzero(train.speaker == train.speaker[row])
        rng = np.random.default_rng(int(clips.digests[row], 16))
        others = [to_float(clips.clips[other]) for other in own[own != row][:8]]
        return to_int16(apply_steps(to_float(clips.clips[row]), steps, rng, others=others))

    copies = tuple(alter(row, copy["steps"]) for copy in recipe.copies for row in range(len(train)))
    repeated = np.tile(np.arange(len(train)), 1 + len(recipe.copies))
    return LabelledClips(
        Waveforms(clips.clips + copies, clips.digests + _digests(copies), {}),
        *(column[repeated] for column in (train.target, train.group, train.speaker, train.allowed)),
    )


def as_clips(clips: Sequence[Any] | np.ndarray) -> Waveforms:
    """Waveforms at 16 kHz, or paths of sound files, as they are trained on.

    Raises
    ------
    EstimatorError
        If a waveform is not one-dimensional, is empty, or holds what is no number.
    """
    decoded = tuple(to_int16(_read(clip, row)) for row, clip in enumerate(clips))
    return Waveforms(decoded, _digests(decoded), {})


def _digests(clips: Sequence[np.ndarray]) -> tuple[str, ...]:
    return tuple(hashlib.sha256(clip.tobytes()).hexdigest() for clip in clips)


def _read(clip: Any, row: int) -> np.ndarray:
    if isinstance(clip, str | Path):
        return load_waveform(clip)
    waveform = np.asarray(clip, dtype=np.float32)
    if waveform.ndim != 1 or not len(waveform) or not np.isfinite(waveform).all():
        raise EstimatorError(
            f"clip {row} must be a mono waveform of shape (n_samples,) with finite values, or a path; "
            f"it has shape {waveform.shape}"
        )
    return waveform
