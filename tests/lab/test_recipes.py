"""Recipes: an unknown key is an error, and the hash tells two recipes apart."""

# ruff: noqa: E402 - imports follow the check that torch is there
import json
import tomllib
from dataclasses import fields
from importlib import resources

import pytest

torch = pytest.importorskip("torch")

from undertone.lab.augment import AugmentConfig
from undertone.lab.features import FEATURES
from undertone.lab.recipes import (
    RecipeError,
    TrainingConfig,
    build_model,
    load_recipe,
    n_parameters,
    parse_recipe,
    recipe_names,
)

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("one_thread")]


@pytest.fixture
def values():
    """The shipped recipe, as parsed TOML."""
    text = resources.files("undertone.lab.recipes").joinpath("undertone-small.toml").read_text("utf-8")
    return tomllib.loads(text)


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_loads_builds_and_runs(name):
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.description
    model = build_model(recipe, n_classes=7).eval()
    output = model(torch.zeros(2, 8_000), torch.tensor([8_000, 4_000]))
    assert output.logits.shape == (2, 7)
    assert n_parameters(model) > 0


def test_a_recipe_file_of_ones_own(tmp_path, values):
    path = tmp_path / "mine.toml"
    path.write_text('name = "mine"\ndescription = ""\n[features]\nkind = "mel"\n[network]\nkind = "se-resnet"\n')
    recipe = load_recipe(path)
    assert (recipe.name, recipe.training, recipe.augment) == ("mine", TrainingConfig(), AugmentConfig())


@pytest.mark.parametrize("section", [None, "features", "network", "augment", "training"])
def test_an_unknown_key_is_an_error_that_names_it(section, values):
    (values if section is None else values.setdefault(section, {}))["learning_rate"] = 1
    where = "the recipe" if section is None else rf"\[{section}\]"
    with pytest.raises(RecipeError, match=f"'learning_rate' in {where}"):
        parse_recipe(values)


@pytest.mark.parametrize("kind", sorted(FEATURES))
def test_an_unknown_key_is_found_for_every_kind_of_features(kind, values):
    values["features"] = {"kind": kind, "n_melz": 64}
    with pytest.raises(RecipeError, match=r"'n_melz' in \[features\]"):
        parse_recipe(values)


@pytest.mark.parametrize("key", ["n_classes", "n_features"])
def test_what_the_data_decide_is_no_key_of_a_recipe(key, values):
    values["network"][key] = 8
    with pytest.raises(RecipeError, match=rf"'{key}' in \[network\]"):
        parse_recipe(values)


@pytest.mark.parametrize("section", ["features", "network"])
def test_a_kind_that_does_not_exist_is_an_error_that_lists_those_that_do(section, values):
    values[section]["kind"] = "transformer-xxl"
    with pytest.raises(RecipeError, match=rf"\[{section}\] needs a kind out of: .*-.*'transformer-xxl'"):
        parse_recipe(values)
    del values[section]["kind"]
    with pytest.raises(RecipeError, match=rf"\[{section}\] needs a kind"):
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


def changed(value):
    if isinstance(value, str):
        return value + "x"
    return [*value, 1] if isinstance(value, list) else value + 1


def test_the_hash_changes_with_every_value():
    recipe = load_recipe("undertone-small")
    variants = []
    for section in (None, "features", "network", "augment", "training"):
        content = recipe.to_json()
        part = content if section is None else content[section]
        for key in [key for key, value in part.items() if key != "kind" and not isinstance(value, dict)]:
            variant = recipe.to_json()
            target = variant if section is None else variant[section]
            target[key] = changed(target[key])
            variants.append(parse_recipe(variant).hash)
    n_values = len(fields(AugmentConfig)) + len(fields(TrainingConfig)) + 3
    assert len(variants) > n_values
    assert len({recipe.hash, *variants}) == len(variants) + 1


def test_a_default_written_out_has_the_same_hash(values):
    written = {**values, "training": {**values["training"], "weight_decay": TrainingConfig().weight_decay}}
    assert parse_recipe(written).hash == parse_recipe(values).hash


def test_other_training_values():
    recipe = load_recipe("undertone-small")
    short = recipe.with_training(epochs=2)
    assert (short.training.epochs, short.network, short.hash == recipe.hash) == (2, recipe.network, False)


def test_one_seed_builds_one_model():
    weights = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        model = build_model(load_recipe("undertone-small"), n_classes=8)
        weights.append(torch.cat([parameter.flatten() for parameter in model.parameters()]))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize(("section", "key", "value"), [("training", "epochs", "40"), ("training", "lr", True)])
def test_a_value_of_the_wrong_type_is_named(section, key, value):
    values = load_recipe("undertone-small").to_json()
    values[section][key] = value
    with pytest.raises(RecipeError, match=f"{key} in .*{section}.* must be of type"):
        parse_recipe(values)


def test_parts_that_do_not_fit_together_are_a_recipe_error():
    values = load_recipe("undertone-small").to_json()
    values["network"]["time_stages"] = 9
    with pytest.raises(RecipeError, match="time_stages must be 1 to 4"):
        build_model(parse_recipe(values), 8)
