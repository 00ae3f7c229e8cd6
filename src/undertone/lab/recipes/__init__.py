"""Recipes: one TOML file per named system, read into frozen dataclasses. An unknown key is an error.

A recipe says everything about a system but the data: features, network, augmentation, training. Its hash goes into
every report and model file.
"""

import hashlib
import inspect
import json
import tomllib
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from importlib import resources
from pathlib import Path
from types import UnionType
from typing import Any, get_origin

import torch
from torch import Tensor, nn

from undertone.lab.augment import AugmentConfig, check_steps
from undertone.lab.features import FrontEnd, InputConfig, build_features
from undertone.lab.nets import NETWORKS, Output

DECIDED_BY_DATA = ("n_features", "n_frames", "n_classes")  # arguments of a network that are no keys of a recipe
# A field added to a configuration later than others carries this mark. At its default it is left out of the JSON, so
# that a recipe which does not use it keeps its hash, and its finished runs.
LATER = {"later": True}


class RecipeError(ValueError):
    """A recipe that does not exist or cannot be read; the message says what to change."""


@dataclass(frozen=True)
class TrainingConfig:
    """How a network is fitted.

    Attributes
    ----------
    epochs
        Passes over the training clips.
    max_clips
        Clips seen in all: on large data the epochs end there. 0 is no limit.
    batch_size
        Clips per step and device.
    optimizer
        ``"adamw"``, ``"adam"``, ``"muon"`` (:class:`~undertone.lab.muon.Muon`) or ``"rmsprop"``
        (Keras's: decay 0.9, epsilon 1e-7).
    lr
        Learning rate; the peak of the one-cycle schedule.
    schedule
        ``"one-cycle"`` (Smith 2018, arXiv:1803.09820), ``"constant"``, or ``"plateau"``: as Keras's ReduceLROnPlateau.
    warmup
        Share of the steps during which the one-cycle schedule rises.
    plateau_monitor
        What has to improve: ``"train_loss"``, ``"dev_loss"``, ``"dev_uar"`` or ``"dev_war"`` (accuracy).
    plateau_factor, plateau_patience, plateau_min_lr
        The rate is multiplied by the factor after this many epochs without improvement, down to the smallest.
    early_stop
        Stop after this many epochs in which ``choose`` has not improved; 0 never.
    choose
        Which epoch's weights are kept: best ``"dev_uar"``, ``"dev_war"`` or ``"dev_loss"``, or the ``"last"``.
    joins_dev
        Train on dev's clips, too, where nothing is left to choose: the last epoch and temperature 1 stand.
    weight_decay
        AdamW's, on matrices only.
    clip_norm
        Largest norm of the gradient; 0 does not clip.
    label_smoothing
        Share of the target given to the other classes.
    frame_loss
        Weight of the loss on the frame logits' vote.
    class_balance
        Loss weight of a class: its frequency to the power of minus this; 1 makes classes equal, 0 leaves them.
    corpus_balance
        0 mixes corpora as they are; 1 weighs each by the square root of its number of speakers.
    max_clip_s
        Longer clips are cropped at random in training; 0 never.
    ema
        Decay per step of the weights' moving average, which is what is scored and exported; 0 turns it off.
    precision
        ``"32"``, ``"bf16"`` (mixed), or ``"auto"``: bf16 where the processor computes it faster.
    """

    epochs: int = 40
    max_clips: int = 0
    batch_size: int = 32
    optimizer: str = field(default="adamw", metadata=LATER)
    lr: float = 1e-3
    schedule: str = field(default="one-cycle", metadata=LATER)
    warmup: float = 0.2
    plateau_monitor: str = field(default="train_loss", metadata=LATER)
    plateau_factor: float = field(default=0.5, metadata=LATER)
    plateau_patience: int = field(default=2, metadata=LATER)
    plateau_min_lr: float = field(default=1e-6, metadata=LATER)
    early_stop: int = field(default=0, metadata=LATER)
    choose: str = field(default="dev_uar", metadata=LATER)
    joins_dev: bool = field(default=False, metadata=LATER)
    weight_decay: float = 0.0
    clip_norm: float = field(default=5.0, metadata=LATER)
    label_smoothing: float = 0.0
    frame_loss: float = 0.0
    class_balance: float = 0.0
    corpus_balance: float = 0.0
    max_clip_s: float = 0.0
    ema: float = 0.0
    precision: str = "auto"

    def __post_init__(self) -> None:
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise RecipeError(f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        if self.joins_dev and (self.choose != "last" or self.plateau_monitor != "train_loss"):
            raise RecipeError("joins_dev leaves no dev to watch: it needs choose = 'last' and no plateau of dev")


CHOICES = {
    "optimizer": ("adamw", "adam", "muon", "rmsprop"),
    "schedule": ("one-cycle", "constant", "plateau"),
    "plateau_monitor": ("train_loss", "dev_loss", "dev_uar", "dev_war"),
    "choose": ("dev_uar", "dev_war", "dev_loss", "last"),
}


@dataclass(frozen=True)
class Published:
    """What the authors of a system report, for the table of results; no part of the recipe's hash.

    Attributes
    ----------
    source
        Repository or paper.
    protocol
        The protocol of ours that stands for theirs.
    score
        Their figure, a share in [0, 1]; 0 where there is none.
    metric
        What it measures, as a key of our scores: ``"war"`` is accuracy.
    note
        What differs between theirs and ours, in a sentence.
    """

    source: str
    protocol: str
    score: float = 0.0
    metric: str = "war"
    note: str = ""


@dataclass(frozen=True)
class Recipe:
    """A named system.

    ``features`` and ``network`` hold a ``kind`` and that kind's own arguments. ``normalise`` and ``scale`` are as of
    :class:`~undertone.lab.features.FrontEnd`. ``input`` says which part of a clip is
    looked at. ``copies`` are the altered copies that stand beside each clip: a ``name`` and ``steps`` each, see
    :mod:`undertone.lab.augment`.

    An ensemble has ``members`` instead: whole recipes, each trained by itself, whose answers are averaged. In a TOML
    file they are names of recipes, or tables of one.
    """

    name: str
    description: str
    features: dict[str, Any] = field(default_factory=dict)
    network: dict[str, Any] = field(default_factory=dict)
    normalise: str = "level"
    scale: float = field(default=15.0, metadata=LATER)
    input: InputConfig = field(default_factory=InputConfig, metadata=LATER)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    copies: list[dict[str, Any]] = field(default_factory=list, metadata=LATER)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    published: Published | None = field(default=None, metadata=LATER)
    members: tuple["Recipe", ...] = field(default=(), metadata=LATER)

    @property
    def hash(self) -> str:
        """Twelve hexadecimal digits that change whenever a value does."""
        content = {key: value for key, value in self.to_json().items() if key != "published"}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def joins_dev(self) -> bool:
        """Whether dev's clips are trained on (:class:`TrainingConfig`); the members of an ensemble agree on it."""
        return (self.members[0] if self.members else self).training.joins_dev

    @property
    def precision(self) -> str:
        """The numbers of training (:class:`TrainingConfig`); the members of an ensemble agree on it."""
        return (self.members[0] if self.members else self).training.precision

    def to_json(self) -> dict[str, Any]:
        """Everything in the recipe, JSON-ready; :func:`parse_recipe` reads it back."""
        content = _to_json(self)
        if self.members:
            members = [member.to_json() for member in self.members]
            return {key: content[key] for key in content if key in OF_ENSEMBLES} | {"members": members}
        return content

    def with_training(self, **changes: Any) -> "Recipe":
        """Return the recipe with other training values, such as ``epochs=5``; of an ensemble, each member with them."""
        if self.members:
            return replace(self, members=tuple(member.with_training(**changes) for member in self.members))
        return replace(self, training=replace(self.training, **changes))


def _to_json(config: Any) -> dict[str, Any]:
    """Fields of a configuration by name; those marked ``LATER`` only where they are not at their default."""
    content = {}
    for entry in fields(config):
        value = getattr(config, entry.name)
        default = entry.default if entry.default_factory is MISSING else entry.default_factory()
        if not (entry.metadata.get("later") and value == default):
            content[entry.name] = _to_json(value) if is_dataclass(value) else value
    return content


def recipe_names() -> list[str]:
    """Names of the recipes that come with undertone."""
    folder = resources.files(__name__)
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def load_recipe(name: str | Path) -> Recipe:
    """Read a recipe by name, or from a TOML file.

    Raises
    ------
    RecipeError
        If there is no such recipe, or it has a key that does not exist.
    """
    if str(name) in recipe_names():
        content = resources.files(__name__).joinpath(f"{name}.toml").read_bytes()
    elif Path(name).is_file():
        content = Path(name).read_bytes()
    else:
        raise RecipeError(f"no recipe named {str(name)!r} and no such file; there are: {', '.join(recipe_names())}")
    try:
        return parse_recipe(tomllib.loads(content.decode()))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RecipeError(f"{name} is not a TOML file: {error}") from error


def parse_recipe(values: dict[str, Any]) -> Recipe:
    """Build a recipe from a dictionary of its sections; an unknown or missing key is a :class:`RecipeError`."""
    values = dict(values)
    if "members" in values:
        return _parse_ensemble(values)
    if missing := [repr(section) for section in ("features", "network") if section not in values]:
        raise RecipeError(f"the recipe is incomplete: it has no {' and no '.join(missing)}")
    for section, kind in SECTIONS.items():
        if section in values:
            values[section] = _build(kind, values[section], f"[{section}]")
    recipe = _build(Recipe, values, "the recipe")
    try:
        build_features(recipe.features, sample_rate=recipe.input.sample_rate)
    except (TypeError, ValueError, ImportError) as error:
        raise RecipeError(f"[features]: {error}") from error
    _check_network(recipe.network)
    _check_copies(recipe.copies)
    return recipe


def _parse_ensemble(values: dict[str, Any]) -> Recipe:
    if others := sorted(set(values) - set(OF_ENSEMBLES)):
        raise RecipeError(
            f"{others[0]!r} belongs to the members of an ensemble, which itself has {', '.join(OF_ENSEMBLES)}"
        )
    given = values["members"]
    if not isinstance(given, list) or len(given) < 2 or not all(isinstance(member, str | dict) for member in given):
        raise RecipeError(f"members must be a list of at least two recipes, names or tables, got {given!r}")
    members = tuple(load_recipe(member) if isinstance(member, str) else parse_recipe(member) for member in given)
    if nested := [member.name for member in members if member.members]:
        raise RecipeError(f"{nested[0]!r} is an ensemble itself; name its members instead")
    if len({member.name for member in members}) < len(members):
        raise RecipeError(f"members need names of their own, got {', '.join(member.name for member in members)}")
    if len({member.training.joins_dev for member in members}) > 1:
        raise RecipeError("members must agree on joins_dev: they are trained and tested on the same split")
    if any(member.copies for member in members):
        raise RecipeError("an ensemble cannot have members that train on altered copies")
    if len({member.training.precision for member in members}) > 1:
        raise RecipeError("members must agree on precision: they are trained in one go")
    return _build(Recipe, {**values, "members": members}, "the recipe")


OF_ENSEMBLES = ("name", "description", "members")
SECTIONS = {"input": InputConfig, "augment": AugmentConfig, "training": TrainingConfig, "published": Published}


def _build(kind: type, values: dict[str, Any], where: str) -> Any:
    known = {entry.name for entry in fields(kind)}
    if unknown := sorted(set(values) - known):
        raise RecipeError(f"unknown key {unknown[0]!r} in {where}; there are: {', '.join(sorted(known))}")
    for entry in fields(kind):
        if entry.name in values and not _fits(values[entry.name], entry.type):
            expected = getattr(entry.type, "__name__", entry.type)
            raise RecipeError(f"{entry.name} in {where} must be of type {expected}, got {values[entry.name]!r}")
    try:
        return kind(**values)
    except TypeError as error:
        raise RecipeError(f"{where} is incomplete: {error}") from error
    except RecipeError:
        raise
    except ValueError as error:
        raise RecipeError(f"{where}: {error}") from error


def _fits(value: Any, expected: Any) -> bool:
    """Whether a TOML value has the type of a field; whole numbers count as numbers, truth values do not."""
    if not isinstance(expected, UnionType):
        expected = get_origin(expected) or expected
    accepted = (int, float) if expected is float else expected
    return isinstance(value, accepted) and (expected is bool or not isinstance(value, bool))


def _check_network(section: dict[str, Any]) -> None:
    kind = section.get("kind")
    if kind not in NETWORKS:
        raise RecipeError(f"[network] needs a kind out of: {', '.join(sorted(NETWORKS))}; got {kind!r}")
    parameters = [name for name in inspect.signature(NETWORKS[kind]).parameters if name not in DECIDED_BY_DATA]
    if unknown := sorted(set(section) - {"kind"} - set(parameters)):
        raise RecipeError(f"unknown key {unknown[0]!r} in [network]; {kind} takes: {', '.join(parameters)}")


def _check_copies(copies: list[dict[str, Any]]) -> None:
    names = [copy.get("name") for copy in copies]
    if len(set(names)) < len(names) or not all(isinstance(name, str) and name for name in names):
        raise RecipeError(f"each of [[copies]] needs a name of its own, got {names}")
    if odd := [name for name in names if set(str(name)) & set("/\\#\0")]:
        raise RecipeError(f"a name of [[copies]] is part of a file's name: no slash, '#' or zero, got {odd[0]!r}")
    for copy in copies:
        if unknown := sorted(set(copy) - {"name", "steps"}):
            raise RecipeError(f"unknown key {unknown[0]!r} in [[copies]]; there are: name, steps")
        try:
            check_steps(copy.get("steps", ()))
        except ValueError as error:
            raise RecipeError(f"[[copies]] {copy['name']}: {error}") from error


class EmotionModel(nn.Module):
    """Waveform in, :class:`~undertone.lab.nets.Output` out: the front end and the network, as exported."""

    def __init__(self, front_end: FrontEnd, network: nn.Module):
        super().__init__()
        self.front_end, self.network = front_end, network

    @property
    def frame_hop_s(self) -> float | None:
        """Seconds between two frame logits, or None where the network has none."""
        stride = getattr(self.network, "frame_stride", None)
        rate = self.front_end.frames_per_second
        return None if stride is None or rate is None else stride / rate

    def forward(self, waveform: Tensor, lengths: Tensor) -> Output:
        """Output for waveforms (batch, n_samples) with ``lengths`` (batch,) valid samples."""
        return self.network(*self.front_end(waveform, lengths))


class Ensemble(nn.Module):
    """Models that hear the same sound, each with a front end of its own, and whose answers are averaged.

    Logits are averaged, and frame logits where all members have them at the same times; embeddings stand one behind
    the other.
    """

    def __init__(self, members: Sequence[EmotionModel]):
        super().__init__()
        self.members = nn.ModuleList(members)
        timings = {(member.frame_hop_s, member.front_end.config) for member in members}
        self.frame_hop_s = timings.pop()[0] if len(timings) == 1 else None

    def forward(self, waveform: Tensor, lengths: Tensor) -> Output:
        """Output for waveforms (batch, n_samples) with ``lengths`` (batch,) valid samples."""
        outputs = [member(waveform, lengths) for member in self.members]
        embeddings = [output.embedding for output in outputs if output.embedding is not None]
        has_frames = self.frame_hop_s is not None
        return Output(
            logits=torch.stack([output.logits for output in outputs]).mean(dim=0),
            frame_logits=torch.stack([output.frame_logits for output in outputs]).mean(dim=0) if has_frames else None,
            embedding=torch.cat(embeddings, dim=1) if embeddings else None,
            n_valid=outputs[0].n_valid if has_frames else None,
        )


Model = EmotionModel | Ensemble


def networks_of(model: Model) -> nn.ModuleList:
    """Return the networks of a model, without the front ends: one, or one for each member."""
    return nn.ModuleList([part.network for part in parts_of(model)])


def parts_of(model: Model) -> list[EmotionModel]:
    """Return the members of an ensemble, or the model itself."""
    return list(model.members) if isinstance(model, Ensemble) else [model]  # type: ignore[arg-type]


def build_model(recipe: Recipe, n_classes: int) -> Model:
    """Build the recipe's model with fresh weights, drawn from torch's global generator."""
    try:
        if recipe.members:
            return Ensemble([_assemble(member, n_classes) for member in recipe.members])
        return _assemble(recipe, n_classes)
    except (TypeError, ValueError) as error:
        raise RecipeError(f"the recipe {recipe.name} does not fit together: {error}") from error


def _assemble(recipe: Recipe, n_classes: int) -> EmotionModel:
    features = build_features(recipe.features, sample_rate=recipe.input.sample_rate)
    front_end = FrontEnd(features, normalise=recipe.normalise, scale=recipe.scale, config=recipe.input)
    arguments = {key: value for key, value in recipe.network.items() if key != "kind"}
    build = NETWORKS[recipe.network["kind"]]
    if "n_frames" in inspect.signature(build).parameters:
        arguments["n_frames"] = front_end.n_frames
    return EmotionModel(front_end, build(front_end.n_features, n_classes, **arguments))


def n_parameters(model: nn.Module) -> int:
    """Numbers that training sets, frozen by now or not, with the running statistics of batch norm, as Keras counts."""
    statistics = [value for name, value in model.named_buffers() if name.endswith(("running_mean", "running_var"))]
    return sum(value.numel() for value in [*model.parameters(), *statistics])
