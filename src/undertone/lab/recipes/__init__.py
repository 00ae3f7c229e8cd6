"""Recipes: one TOML file per named system, read into frozen dataclasses. An unknown key is an error.

A recipe says everything about a system but the data: features, network, augmentation, training. Its hash goes into
every report and model file.
"""

import hashlib
import inspect
import json
import tomllib
from dataclasses import asdict, dataclass, field, fields, replace
from importlib import resources
from pathlib import Path
from typing import Any, get_origin

from torch import Tensor, nn

from undertone.lab.augment import AugmentConfig
from undertone.lab.features import FEATURES, FrontEnd
from undertone.lab.nets import NETWORKS, Output

DECIDED_BY_DATA = ("n_features", "n_classes")  # arguments of a network that are no keys of a recipe


class RecipeError(ValueError):
    """A recipe that does not exist or cannot be read; the message says what to change."""


@dataclass(frozen=True)
class TrainingConfig:
    """How a network is fitted.

    Attributes
    ----------
    epochs
        Passes over the training clips.
    batch_size
        Clips per step and device.
    lr
        Peak learning rate of the one-cycle schedule (Smith 2018, arXiv:1803.09820).
    warmup
        Share of the steps during which it rises.
    weight_decay
        AdamW's, on matrices only.
    label_smoothing
        Share of the target given to the other classes.
    frame_loss
        Weight of the loss on the frame logits' vote.
    class_balance
        Loss weight of a class: its frequency to the power of minus this; 1 makes classes equal, 0 leaves them.
    max_clips
        Clips seen in all: on large data the epochs end there. 0 is no limit.
    corpus_balance
        0 mixes corpora as they are; 1 weighs each by the square root of its number of speakers.
    max_clip_s
        Longer clips are cropped at random in training.
    ema
        Decay per step of the weights' moving average, which is what is scored and exported; 0 turns it off.
    precision
        ``"32"``, ``"bf16"`` (mixed), or ``"auto"``: bf16 where the processor computes it faster.
    """

    epochs: int = 40
    max_clips: int = 0
    batch_size: int = 32
    lr: float = 3e-3
    warmup: float = 0.2
    weight_decay: float = 0.02
    label_smoothing: float = 0.1
    frame_loss: float = 0.3
    class_balance: float = 1.0
    corpus_balance: float = 0.0
    max_clip_s: float = 4.0
    ema: float = 0.99
    precision: str = "auto"


@dataclass(frozen=True)
class Recipe:
    """A named system. ``features`` and ``network`` hold a ``kind`` and that kind's own arguments."""

    name: str
    description: str
    features: dict[str, Any]
    network: dict[str, Any]
    normalise: str = "level"
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)

    @property
    def hash(self) -> str:
        """Twelve hexadecimal digits that change whenever a value does."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()[:12]

    def to_json(self) -> dict[str, Any]:
        """Everything in the recipe, JSON-ready; :func:`parse_recipe` reads it back."""
        return asdict(self)

    def with_training(self, **changes: Any) -> "Recipe":
        """Return the recipe with other training values, such as ``epochs=5``."""
        return replace(self, training=replace(self.training, **changes))


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
    sections = {"augment": AugmentConfig, "training": TrainingConfig}
    for section, kind in sections.items():
        values[section] = _build(kind, values.get(section, {}), f"[{section}]")
    recipe = _build(Recipe, values, "the recipe")
    _check_kind(recipe.features, FEATURES, "[features]")
    _check_kind(recipe.network, NETWORKS, "[network]")
    return recipe


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


def _fits(value: Any, expected: Any) -> bool:
    """Whether a TOML value has the type of a field; whole numbers count as numbers, truth values do not."""
    expected = get_origin(expected) or expected
    accepted = (int, float) if expected is float else expected
    return isinstance(value, accepted) and (expected is bool or not isinstance(value, bool))


def _check_kind(section: dict[str, Any], kinds: dict[str, Any], where: str) -> None:
    kind = section.get("kind")
    if kind not in kinds:
        raise RecipeError(f"{where} needs a kind out of: {', '.join(sorted(kinds))}; got {kind!r}")
    parameters = [name for name in inspect.signature(kinds[kind]).parameters if name not in DECIDED_BY_DATA]
    if unknown := sorted(set(section) - {"kind"} - set(parameters)):
        raise RecipeError(f"unknown key {unknown[0]!r} in {where}; {kind} takes: {', '.join(parameters)}")


class EmotionModel(nn.Module):
    """Waveform in, :class:`~undertone.lab.nets.Output` out: the front end and the network, as exported."""

    def __init__(self, front_end: FrontEnd, network: nn.Module):
        super().__init__()
        self.front_end, self.network = front_end, network

    def forward(self, waveform: Tensor, lengths: Tensor) -> Output:
        """Output for waveforms (batch, n_samples) with ``lengths`` (batch,) valid samples."""
        return self.network(*self.front_end(waveform, lengths))


def build_model(recipe: Recipe, n_classes: int) -> EmotionModel:
    """Build the recipe's model with fresh weights, drawn from torch's global generator."""
    features = {key: value for key, value in recipe.features.items() if key != "kind"}
    network = {key: value for key, value in recipe.network.items() if key != "kind"}
    try:
        return _assemble(recipe, features, network, n_classes)
    except (TypeError, ValueError) as error:
        raise RecipeError(f"the recipe {recipe.name} does not fit together: {error}") from error


def _assemble(recipe: Recipe, features: dict[str, Any], network: dict[str, Any], n_classes: int) -> EmotionModel:
    front_end = FrontEnd(FEATURES[recipe.features["kind"]](**features), normalise=recipe.normalise)
    return EmotionModel(front_end, NETWORKS[recipe.network["kind"]](front_end.n_features, n_classes, **network))


def n_parameters(model: nn.Module) -> int:
    """Numbers that training sets, frozen by now or not."""
    return sum(parameter.numel() for parameter in model.parameters())
