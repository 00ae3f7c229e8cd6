"""Recipes: an unknown key is an error, and the hash tells two recipes apart."""

# ruff: noqa: E402 - imports follow the check that torch is there
import json
import tomllib
from dataclasses import fields
from importlib import resources

import pytest

torch = pytest.importorskip("torch")

from undertone.lab.augment import AugmentConfig
from undertone.lab.features import FEATURES, InputConfig
from undertone.lab.recipes import (
    CHOICES,
    RecipeError,
    TrainingConfig,
    build_model,
    load_recipe,
    parse_recipe,
)

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("one_thread")]


@pytest.fixture
def values():
    """A recipe of the shipped model, as parsed TOML."""
    text = resources.files("undertone.lab.recipes").joinpath("undertone-street.toml").read_text("utf-8")
    return tomllib.loads(text)


def test_a_recipe_file_of_ones_own(tmp_path, values):
    path = tmp_path / "mine.toml"
    path.write_text('name = "mine"\ndescription = ""\n[features]\nkind = "mel"\n[network]\nkind = "se-resnet"\n')
    recipe = load_recipe(path)
    assert (recipe.name, recipe.training, recipe.augment) == ("mine", TrainingConfig(), AugmentConfig())


@pytest.mark.parametrize("section", [None, "features", "network", "augment", "training"])
def test_an_unknown_key_is_an_error_that_names_it(section, values):
    (values if section is None else values.setdefault(section, {}))["learning_rate"] = 1
    where = {None: "'learning_rate' in the recipe", "features": r"\[features\]: unknown key 'learning_rate'"}
    with pytest.raises(RecipeError, match=where.get(section, rf"'learning_rate' in \[{section}\]")):
        parse_recipe(values)


@pytest.mark.parametrize("kind", sorted(FEATURES))
def test_an_unknown_key_is_found_for_every_kind_of_features(kind, values):
    values["features"] = {"kind": kind, "n_melz": 64}
    with pytest.raises(RecipeError, match=rf"\[features\]: unknown key 'n_melz'; the features {kind} take"):
        parse_recipe(values)


def test_an_unknown_key_is_found_in_a_part_of_features(values):
    values["features"] = {"kind": "resize", "n_frames": 8, "parts": [{"kind": "mel", "n_melz": 64}]}
    with pytest.raises(RecipeError, match=r"\[features\]: unknown key 'n_melz'; the features mel take"):
        parse_recipe(values)


@pytest.mark.parametrize("key", ["n_classes", "n_features"])
def test_what_the_data_decide_is_no_key_of_a_recipe(key, values):
    values["network"][key] = 8
    with pytest.raises(RecipeError, match=rf"'{key}' in \[network\]"):
        parse_recipe(values)


@pytest.mark.parametrize("section", ["features", "network"])
def test_a_kind_that_does_not_exist_is_an_error_that_lists_those_that_do(section, values):
    values[section]["kind"] = "transformer-xxl"
    with pytest.raises(RecipeError, match=rf"\[{section}\].* needs? a kind out of: .*-.*'transformer-xxl'"):
        parse_recipe(values)
    del values[section]["kind"]
    with pytest.raises(RecipeError, match=rf"\[{section}\].* needs? a kind"):
        parse_recipe(values)


@pytest.mark.parametrize("key", ["name", "description", "features", "network"])
def test_a_missing_key_is_an_error_that_names_it(key, values):
    del values[key]
    with pytest.raises(RecipeError, match=f"'{key}'"):
        parse_recipe(values)


def test_a_missing_recipe_and_a_broken_file_say_so(tmp_path):
    with pytest.raises(RecipeError, match=r"no recipe named 'nonsense' .* there are: .*undertone-small"):
        load_recipe("nonsense")
    path = tmp_path / "broken.toml"
    path.write_text("name = ")
    with pytest.raises(RecipeError, match=r"broken\.toml is not a TOML file"):
        load_recipe(path)


def test_round_trip_through_json():
    recipe = load_recipe("undertone-small")
    again = parse_recipe(json.loads(json.dumps(recipe.to_json())))
    assert again == recipe
    assert again.hash == recipe.hash


def changed(name, value):
    """Another value that is allowed."""
    if isinstance(value, bool):
        return not value
    if name in CHOICES:
        return next(choice for choice in CHOICES[name] if choice != value)
    if isinstance(value, str):
        return value + "x"
    if name.endswith("_probability"):
        return (value + 1) / 2
    if name.startswith("min_"):
        return value - 0.01
    return [*value, 1] if isinstance(value, list) else value + 1


def test_the_hash_changes_with_every_value(values):
    recipe = parse_recipe(values)
    defaults = {"input": InputConfig(), "augment": recipe.augment, "training": recipe.training}
    variants = {}
    for section in ("features", "network", *defaults):
        content = vars(defaults[section]) if section in defaults else values[section]
        for key in [key for key in content if key != "kind"]:
            other = {**values.get(section, {}), key: changed(key, content[key])}
            variants[f"{section} {key}"] = parse_recipe({**values, section: other})
    copies = [{"name": "noise", "steps": [{"kind": "noise", "rate": 0.1}]}]
    for key, other in {"normalise": "band", "scale": 2.0, "copies": copies, "description": "", "name": "x"}.items():
        variants[key] = parse_recipe({**values, key: other})
    n_values = len(fields(AugmentConfig)) + len(fields(TrainingConfig)) + len(fields(InputConfig))
    assert len(variants) > n_values + 5
    hashes = {name: variant.hash for name, variant in variants.items()} | {"none": recipe.hash}
    assert len(set(hashes.values())) == len(variants) + 1


def test_what_others_report_is_no_part_of_the_hash(values):
    published = {"source": "a paper", "protocol": "pooled-random", "score": 0.5}
    assert parse_recipe({**values, "published": published}).hash == parse_recipe(values).hash


def test_a_default_written_out_has_the_same_hash(values):
    defaults = {key: value for key, value in vars(TrainingConfig()).items() if key not in values["training"]}
    assert {"schedule", "clip_norm"} <= set(defaults)
    written = {**values, "training": {**values["training"], **defaults}, "input": vars(InputConfig()), "copies": []}
    assert parse_recipe(written).hash == parse_recipe(values).hash


def test_other_training_values():
    recipe = load_recipe("undertone-street")
    short = recipe.with_training(epochs=2)
    assert (short.training.epochs, short.network, short.hash == recipe.hash) == (2, recipe.network, False)


def test_one_seed_builds_one_model():
    weights = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        model = build_model(load_recipe("undertone-street"), n_classes=8)
        weights.append(torch.cat([parameter.flatten() for parameter in model.parameters()]))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize(("section", "key", "value"), [("training", "epochs", "40"), ("training", "lr", True)])
def test_a_value_of_the_wrong_type_is_named(section, key, value):
    values = load_recipe("undertone-street").to_json()
    values[section][key] = value
    with pytest.raises(RecipeError, match=f"{key} in .*{section}.* must be of type"):
        parse_recipe(values)


def test_parts_that_do_not_fit_together_are_a_recipe_error():
    values = load_recipe("undertone-street").to_json()
    values["network"]["time_stages"] = 9
    with pytest.raises(RecipeError, match="time_stages must be 1 to 4"):
        build_model(parse_recipe(values), 8)


@pytest.mark.parametrize("watched", [{"choose": "dev_uar"}, {"choose": "last", "plateau_monitor": "dev_loss"}])
def test_dev_cannot_both_join_train_and_be_watched(make_recipe, watched):
    with pytest.raises(RecipeError, match="joins_dev leaves no dev to watch"):
        make_recipe(training={"joins_dev": True, **watched})
    assert make_recipe(training={"joins_dev": True, "choose": "last"}).joins_dev
