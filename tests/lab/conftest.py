"""Shared by the lab's tests: sounds that differ by emotion, a recipe small enough to train in a second, tiny corpora.

Nothing here imports torch before a test asks for it: ``corpora`` and ``evaluation`` are tested without.
"""

import hashlib

import numpy as np
import pytest
import soundfile

SAMPLE_RATE = 16_000
TINY_RECIPE = {
    "name": "tiny",
    "description": "small enough to train in a second",
    "features": {"kind": "log-mel", "n_mels": 16},
    "network": {
        "kind": "se-resnet",
        "centred": True,
        "widths": [4, 8],
        "time_stages": 2,
        "n_hidden": 16,
        "n_embedding": 8,
        "dropout": 0.1,
    },
    "augment": {
        "speed": 0.1,
        "gain_db": 6.0,
        "noise_probability": 0.3,
        "tempo": 0.1,
        "warp": 0.08,
        "n_band_masks": 2,
        "max_mask_bands": 3,
        "n_time_masks": 2,
        "max_mask_s": 0.1,
        "mixup_alpha": 0.3,
        "mixup_probability": 0.5,
    },
    "training": {
        "epochs": 3,
        "batch_size": 8,
        "lr": 0.02,
        "weight_decay": 0.02,
        "label_smoothing": 0.1,
        "frame_loss": 0.3,
        "class_balance": 1.0,
        "max_clip_s": 4.0,
        "ema": 0.8,
        "precision": "32",
    },
}


@pytest.fixture(scope="session")
def one_thread():
    """Torch on one thread: sums are added up in one order, and the tests share the machine."""
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def make_recipe(one_thread):
    """Function (**sections) -> the tiny recipe with these values on top."""
    from undertone.lab.recipes import parse_recipe

    def make(**sections):
        values = {
            key: {**value, **sections.get(key, {})} if isinstance(value, dict) else sections.get(key, value)
            for key, value in TINY_RECIPE.items()
        }
        return parse_recipe({**sections, **values})

    return make


@pytest.fixture(scope="session")
def make_clip():
    """Function (kind, rng, duration_s) -> (n_samples,) float32: a tone with overtones in noise, its pitch by kind."""

    def make(kind, rng, duration_s=0.4):
        times_s = np.arange(round(duration_s * SAMPLE_RATE)) / SAMPLE_RATE
        frequency_hz = 200 * 1.6**kind * rng.uniform(0.95, 1.05)
        tone = sum(np.sin(2 * np.pi * k * frequency_hz * times_s + rng.uniform(0, 6)) / k for k in (1, 2, 3))
        return (0.2 * tone + 0.01 * rng.standard_normal(len(times_s))).astype(np.float32)

    return make


@pytest.fixture(scope="session")
def make_waveforms():
    """Function (clips) -> Waveforms of these float arrays, as ``decode_utterances`` would return them."""
    pytest.importorskip("torch")
    from undertone.lab.data import Waveforms, to_int16

    def make(clips):
        decoded = tuple(to_int16(clip) for clip in clips)
        return Waveforms(decoded, tuple(hashlib.sha256(clip.tobytes()).hexdigest() for clip in decoded), {})

    return make


@pytest.fixture(scope="session")
def make_labelled(make_clip, make_waveforms):
    """Function (n_per_class, seed, *, n_classes) -> LabelledClips whose classes differ in pitch."""
    from undertone.lab.training import LabelledClips

    def make(n_per_class, seed=0, *, n_classes=3):
        rng = np.random.default_rng(seed)
        target = np.repeat(np.arange(n_classes), n_per_class)
        clips = [make_clip(2 * kind, rng, rng.uniform(0.25, 0.6)) for kind in target]
        return LabelledClips(
            make_waveforms(clips),
            target=target,
            group=np.zeros_like(target),
            speaker=np.arange(len(target)) % 4,
            allowed=np.ones((len(target), n_classes), dtype=bool),
        )

    return make


@pytest.fixture(scope="session")
def make_ravdess(make_clip):
    """Function (root, *, actors, seeds) -> root, with a folder RAVDESS of each actor saying each emotion once.

    ``seeds`` gives single actors another voice than their usual one: {actor: seed}.
    """

    def make(root, *, actors=range(1, 25), seeds=None):
        for actor in actors:
            rng = np.random.default_rng([actor, (seeds or {}).get(actor, 0)])
            folder = root / "RAVDESS" / f"Actor_{actor:02d}"
            folder.mkdir(parents=True, exist_ok=True)
            for kind in range(8):
                name = f"03-01-{kind + 1:02d}-01-01-01-{actor:02d}.wav"
                soundfile.write(folder / name, make_clip(kind, rng, rng.uniform(0.2, 0.35)), SAMPLE_RATE)
        return root

    return make


@pytest.fixture(scope="session")
def ravdess_root(make_ravdess, tmp_path_factory):
    return make_ravdess(tmp_path_factory.mktemp("corpora"))


@pytest.fixture(scope="session")
def quick_recipe(make_recipe):
    """One epoch: enough to go through everything once."""
    return make_recipe(training={"epochs": 1, "batch_size": 24})


@pytest.fixture(scope="session")
def evaluated(ravdess_root, quick_recipe, tmp_path_factory):
    """All folds of ravdess-speaker on made-up clips: (run_dir, report, cache_dir)."""
    from undertone.lab.experiment import evaluate

    run_dir, cache_dir = tmp_path_factory.mktemp("run"), tmp_path_factory.mktemp("cache")
    report = evaluate(ravdess_root, "ravdess-speaker", quick_recipe, run_dir, accelerator="cpu", cache_dir=cache_dir)
    return run_dir, report, cache_dir
