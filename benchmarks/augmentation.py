"""What each augmentation costs, beside the same one of audiomentations, on the same clips, on one core.

    pip install "audiomentations[extras]"      in an environment of its own: it wants an older soxr
    OMP_NUM_THREADS=1 python benchmarks/augmentation.py --data corpora --json out.json

The two take turns, a clip at a time, after one round that is not counted. Times are processor times, so that a busy
machine disturbs them little, and the figures medians over the clips. Each is called as its users call it, drawing
included: ours by ``apply_steps``, theirs by the transform's call. ``ratio`` is theirs over ours: above 1, ours is
faster. Where nothing is drawn, ``difference`` is the largest between the two results, of the clip's largest sample.
"""

import argparse
import json
import statistics
import time
from dataclasses import fields
from pathlib import Path

import numpy as np
import torch

from undertone.audio import SAMPLE_RATE, find_audio, load_waveform
from undertone.lab.augment import AugmentConfig, apply_steps, augment_waveforms
from undertone.lab.effects import limit_peak, room_response

MIX = AugmentConfig(
    pitch_probability=0.3,
    stretch_probability=0.3,
    roll_probability=0.5,
    reverb_probability=0.3,
    babble_probability=0.3,
    clip_probability=0.1,
    telephone_probability=0.1,
)
BATCH_SIZE = 32


def draw_clips(data, n_clips, rng):
    """Real clips out of all corpora below ``data``, or synthesised ones of 2 to 4 s."""
    if data is not None:
        paths = find_audio([data])
        return [load_waveform(paths[index]) for index in sorted(rng.choice(len(paths), n_clips, replace=False))]
    clips = []
    for _ in range(n_clips):
        time_s = np.arange(int(rng.uniform(2, 4) * SAMPLE_RATE)) / SAMPLE_RATE
        voice = sum(np.sin(2 * np.pi * rng.uniform(90, 260) * k * time_s) / k for k in range(1, 8))
        clips.append((0.1 * voice + 0.001 * rng.standard_normal(len(time_s))).astype(np.float32))
    return clips


def seconds_of(call):
    started = time.process_time()
    result = call()
    return time.process_time() - started, result


def pairs(folder, rng):
    """Name -> (our steps, their transform, whether the two should give the same)."""
    import audiomentations as peer
    import soundfile

    response, voice = folder / "response.wav", folder / "voice.wav"
    soundfile.write(response, room_response(rng.standard_normal(8_000), 0.5, 0.0), SAMPLE_RATE)
    soundfile.write(voice, 0.1 * rng.standard_normal(5 * SAMPLE_RATE), SAMPLE_RATE)
    snr_db = {"min_snr_db": 5, "max_snr_db": 40}
    vocoder, pink = {"method": "librosa_phase_vocoder"}, {"min_f_decay": -3, "max_f_decay": -3}
    pitch, stretch = {"kind": "pitch", "semitones": 0.9}, {"kind": "stretch", "rate": 0.8}
    semitones = {"min_semitones": 0.9, "max_semitones": 0.9}
    rate = {"min_rate": 0.8, "max_rate": 0.8, "leave_length_unchanged": False}
    shift, rolling = {"min_shift_s": -0.25, "max_shift_s": 0.25}, {"shift_unit": "seconds", "fade_duration": 0}
    drive = {"min_drive_db": 3, "max_drive_db": 12}
    return {
        "noise": ({"kind": "noise", **snr_db}, peer.AddGaussianSNR(**snr_db, p=1), False),
        "noise by peak": ({"kind": "noise", "rate": 0.035}, peer.AddGaussianNoise(p=1), False),
        "pink noise": ({"kind": "noise", "colour": "pink", **snr_db}, peer.AddColorNoise(**snr_db, **pink, p=1), False),
        "babble": ({"kind": "babble", "n_voices": 1, **snr_db}, peer.AddBackgroundNoise(str(voice), p=1), False),
        "pitch": (pitch, peer.PitchShift(**semitones, **vocoder, p=1), True),
        "pitch, their default": (pitch, peer.PitchShift(**semitones, p=1), False),
        "stretch": (stretch, peer.TimeStretch(**rate, **vocoder, p=1), True),
        "stretch, their default": (stretch, peer.TimeStretch(**rate, p=1), False),
        "roll": ({"kind": "roll", **shift}, peer.Shift(-0.25, 0.25, **rolling, p=1), False),
        "gain": ({"kind": "gain", "gain_db": -6}, peer.Gain(-6, -6, p=1), True),
        "reverb": ({"kind": "reverb", "rt60_s": 0.5}, peer.ApplyImpulseResponse(str(response), p=1), False),
        "clip": ({"kind": "clip", **drive}, peer.ClippingDistortion(p=1), False),
        "telephone": ({"kind": "telephone"}, peer.BandPassFilter(1_850, 1_850, 1.67, 1.67, p=1), False),
        "codec, mp3": ({"kind": "codec", "codec": "mp3", "quality": 0.3}, peer.Mp3Compression(32, 32, p=1), False),
        "speed": ({"kind": "speed", "factor": 0.9}, peer.Resample(14_400, 14_400, p=1), False),
    }


def compare(step, transform, same, clips, rng):
    ours_s, theirs_s, difference = [], [], 0.0
    for number, clip in enumerate([clips[0], *clips]):
        own_s, own = seconds_of(lambda clip=clip: apply_steps(clip, [step], rng, others=clips))
        peer_s, peer = seconds_of(lambda clip=clip: transform(clip, SAMPLE_RATE))
        if number:
            ours_s.append(own_s)
            theirs_s.append(peer_s)
            if same:
                difference = max(difference, float(np.abs(own - limit_peak(peer)).max() / np.abs(clip).max()))
    row = {"ours_ms": 1e3 * statistics.median(ours_s), "theirs_ms": 1e3 * statistics.median(theirs_s)}
    row["ratio"] = row["theirs_ms"] / row["ours_ms"]
    return row | ({"difference": difference} if same else {})


def measure_on_the_fly(clips):
    """Clips per second of one core through each augmentation of a batch, always applied, and through a typical mix."""
    kinds = [entry.name for entry in fields(AugmentConfig) if entry.name.endswith("_probability")]
    configs = {name.removesuffix("_probability"): AugmentConfig(**{name: 1.0}) for name in kinds}
    configs = {name: config for name, config in configs.items() if config.waveform_steps()} | {"typical mix": MIX}
    batches = [clips[start : start + BATCH_SIZE] for start in range(0, len(clips), BATCH_SIZE)]
    rates = {}
    for name, config in configs.items():
        augment_waveforms(batches[0][:2], np.random.default_rng(0), config)
        elapsed_s, _ = seconds_of(
            lambda config=config: [augment_waveforms(batch, np.random.default_rng(1), config) for batch in batches]
        )
        rates[name] = len(clips) / elapsed_s
    return rates


def main():
    import tempfile

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder that holds the corpora; synthesised clips if not given")
    parser.add_argument("--n", type=int, default=100, help="clips")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--without-peer", action="store_true", help="leave audiomentations out")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    clips = draw_clips(arguments.data, arguments.n, rng)
    duration_s = sum(map(len, clips)) / len(clips) / SAMPLE_RATE
    print(f"{len(clips)} clips of {duration_s:.1f} s on average, one core, processor time")
    result = {"n_clips": len(clips), "mean_duration_s": duration_s, "pairs": {}}
    if not arguments.without_peer:
        with tempfile.TemporaryDirectory() as folder:
            for name, pair in pairs(Path(folder), rng).items():
                row = result["pairs"][name] = compare(*pair, clips, rng)
                difference = f"   largest difference {row['difference']:.1e}" if "difference" in row else ""
                times = f"{row['ours_ms']:9.3f} ms{row['theirs_ms']:9.3f} ms"
                print(f"{name:24}{times}  ratio {row['ratio']:6.2f}{difference}")
    result["on_the_fly_clips_per_s"] = measure_on_the_fly(clips)
    for name, rate in result["on_the_fly_clips_per_s"].items():
        print(f"on the fly, {name:14}{rate:9,.0f} clips/s")
    if arguments.json:
        temporary = arguments.json.with_name(f".{arguments.json.name}.part")
        temporary.write_text(json.dumps(result, indent=2))
        temporary.replace(arguments.json)


if __name__ == "__main__":
    main()
