"""What a timeline of a long recording costs, and how well it finds where one clip ends and the next begins.

    python benchmarks/timeline.py --data ../corpora --hours 0.25             a first look
    python benchmarks/timeline.py --data ../corpora --hours 10 --json out.json
    python benchmarks/timeline.py --data ../corpora --model fold.onnx --fold RUN/fold-0/fold.json --part test

The recording is real clips one behind the other, without a pause of our own (``--pause``), in random order: they are
drawn again and again until it is long enough, so that clips come more than once, between other neighbours each time.
With ``--fold``, the clips are those of the speakers that this fold's training never heard (``test``) or used to choose
its epoch (``dev``): settings are chosen on ``dev``, figures are quoted from ``test``. What is measured:

- speed and memory: a process of its own hears the file, with as many threads as ``--threads`` says; its peak is the
  largest resident set the system has seen, interpreter and model included
- boundaries: of the places where two clips of different emotion meet, both recognised when heard alone, the share at
  which one segment gives way to another within a second; and the share at which these two segments also have the two
  emotions
- repeats: of the pairs of occurrences of a clip, the share with the same answer, and with answers that do not
  contradict (one of the two may be not sure); the answer of a clip is the emotion that has most of its time
- blocks: whether segments are identical when the first minutes are read in blocks of other sizes
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import soundfile

import undertone
from undertone.audio import SAMPLE_RATE, load_waveform, stream_blocks
from undertone.lab import corpora
from undertone.model_file import DEFAULT_MODEL
from undertone.timelines import timeline, timeline_of_blocks

TOLERANCE_S = 1.0
BLOCKS_S = 600.0  # of the recording that are heard again in other blocks
BLOCK_SIZES = (1_000, 16_000, 163_840, 1_000_003)  # samples


def choose_clips(arguments):
    """Utterances to draw from, and their emotion as the model names it."""
    utterances = corpora.load(arguments.data, arguments.corpora)
    if arguments.fold:
        fold = json.loads(arguments.fold.read_text())
        wanted = {row if isinstance(row, str) else row["id"] for row in fold[arguments.part]}
        utterances = [utterance for utterance in utterances if utterance.utterance_id in wanted]
    rng = np.random.default_rng(arguments.seed)
    chosen = [utterances[index] for index in rng.permutation(len(utterances))[: arguments.clips]]
    return chosen, rng


def write_recording(path, clips, hours, pause_s, rng):
    """Write clips in random order until it is long enough; return (clip, start_s, end_s) of each."""
    pause = np.zeros(round(pause_s * SAMPLE_RATE), np.float32)
    places, position = [], 0
    with soundfile.SoundFile(path, "w", SAMPLE_RATE, 1, subtype="PCM_16") as file:
        while position < hours * 3_600 * SAMPLE_RATE:
            for index in rng.permutation(len(clips)).tolist():
                waveform = load_waveform(clips[index].path)
                file.write(np.concatenate([waveform, pause]))
                places.append((index, position / SAMPLE_RATE, (position + len(waveform)) / SAMPLE_RATE))
                position += len(waveform) + len(pause)
                if position >= hours * 3_600 * SAMPLE_RATE:
                    break
    return places


def hear_alone(arguments):
    """In a process of its own: hear the recording, print time, memory and timeline."""
    model = undertone.load_model(arguments.model, threads=arguments.threads)
    before_mb = peak_mb()
    start_s, cpu_s = time.perf_counter(), time.process_time()
    found = timeline(model, arguments.hear, vad=arguments.vad)
    result = {
        "seconds": time.perf_counter() - start_s,
        "processor_seconds": time.process_time() - cpu_s,
        "peak_mb": peak_mb(),
        "before_mb": before_mb,
        "duration_s": found.duration_s,
        "segments": [(segment.start_s, segment.end_s, segment.emotion) for segment in found.segments],
    }
    print(json.dumps(result))


def peak_mb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def answers_of(places, segments):
    """Return for each place the emotion that has most of its time, "silence" where no segment is."""
    answers, first = [], 0
    for _, start_s, end_s in places:
        seconds = {}
        while first < len(segments) and segments[first][1] <= start_s:
            first += 1
        for segment_start_s, segment_end_s, emotion in segments[first:]:
            if segment_start_s >= end_s:
                break
            part_s = min(end_s, segment_end_s) - max(start_s, segment_start_s)
            seconds[emotion] = seconds.get(emotion, 0.0) + part_s
        answers.append(max(seconds, key=seconds.get) if seconds else "silence")
    return answers


def count_boundaries(places, emotions, is_recognised, segments):
    """Return (cases, found, found with the right emotions) and (cases, found) where the emotion stays the same."""
    changes = [((a[1] + b[0]) / 2, a[2], b[2]) for a, b in pairwise(segments) if a[2] != b[2]]
    times_s = np.array([change[0] for change in changes])
    different, same = np.zeros(3, int), np.zeros(2, int)
    for (before, _, end_s), (after, start_s, _) in pairwise(places):
        if not (is_recognised[before] and is_recognised[after]):
            continue
        join_s = (start_s + end_s) / 2  # the middle of the pause, if there is one
        near = changes[slice(*np.searchsorted(times_s, [join_s - TOLERANCE_S, join_s + TOLERANCE_S]))]
        if emotions[before] == emotions[after]:
            same += [1, bool(near)]
        else:
            different += [1, bool(near), (emotions[before], emotions[after]) in [change[1:] for change in near]]
    return different.tolist(), same.tolist()


def count_repeats(places, answers):
    """Return (pairs, same, not contradicting) over the occurrences of each clip."""
    occurrences = {}
    for (clip, _, _), answer in zip(places, answers, strict=True):
        occurrences.setdefault(clip, []).append(answer)
    pairs = [pair for found in occurrences.values() for pair in combinations(found, 2)]
    same = sum(a == b for a, b in pairs)
    compatible = sum(a == b or None in (a, b) for a, b in pairs)
    return len(pairs), same, compatible


def compare_blocks(model, path, vad):
    """Return whether all block sizes give the same segments."""
    waveform = []
    for block in stream_blocks(path):
        waveform.append(block)
        if sum(map(len, waveform)) > BLOCKS_S * SAMPLE_RATE:
            break
    waveform = np.concatenate(waveform)
    found = [
        timeline_of_blocks(model, (waveform[i : i + size] for i in range(0, len(waveform), size)), vad=vad).segments
        for size in BLOCK_SIZES
    ]
    return all(segments == found[0] for segments in found)


def measure(arguments):
    clips, rng = choose_clips(arguments)
    model = undertone.load_model(arguments.model, threads=arguments.threads)
    emotions = [
        clip.emotion if clip.emotion in model.labels else "neutral" for clip in clips
    ]  # calm, in the shipped one
    predictions = model.predict_batch([clip.path for clip in clips])
    is_recognised = [row.emotion == emotion for row, emotion in zip(predictions, emotions, strict=True)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"recording.{arguments.format}"
        places = write_recording(path, clips, arguments.hours, arguments.pause, rng)
        command = [sys.executable, __file__, "--hear", path, "--model", arguments.model, "--vad", arguments.vad]
        command += ["--threads", str(arguments.threads)]
        heard = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        is_same = compare_blocks(model, path, arguments.vad)
    segments = [tuple(segment) for segment in heard["segments"]]
    answers = answers_of(places, segments)
    (n_cases, n_found, n_right), (n_equal, n_false) = count_boundaries(places, emotions, is_recognised, segments)
    n_pairs, n_same, n_compatible = count_repeats(places, answers)
    is_right = [answer == emotions[clip] for answer, (clip, _, _) in zip(answers, places, strict=True)]
    is_sure = [answer not in (None, "silence") for answer in answers]
    return {
        "model": model.card.name,
        "clips": len(clips),
        "speakers": len({clip.speaker_id for clip in clips}),
        "recognised_alone": float(np.mean(is_recognised)),
        "hours": heard["duration_s"] / 3_600,
        "seconds": heard["seconds"],
        "processor_seconds": heard["processor_seconds"],
        "times_real_time": heard["duration_s"] / heard["seconds"],
        "peak_mb": heard["peak_mb"],
        "peak_before_hearing_mb": heard["before_mb"],
        "threads": arguments.threads,
        "vad": arguments.vad,
        "segments": len(segments),
        "boundaries": n_cases,
        "boundaries_found": n_found / n_cases,
        "boundaries_found_with_both_emotions": n_right / n_cases,
        "joins_of_the_same_emotion": n_equal,
        "changes_found_there": n_false / n_equal if n_equal else None,
        "answered_right": float(np.mean(is_right)),
        "not_sure": float(np.mean([answer is None for answer in answers])),
        "right_where_sure": float(np.mean(np.array(is_right)[is_sure])),
        "without_speech": float(np.mean([answer == "silence" for answer in answers])),
        "pairs_of_repeats": n_pairs,
        "repeats_same": n_same / n_pairs if n_pairs else None,
        "repeats_not_contradicting": n_compatible / n_pairs if n_pairs else None,
        "same_in_other_blocks": is_same,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="the folder that holds RAVDESS, CREMA-D, TESS, SAVEE")
    parser.add_argument("--corpora", nargs="*", help="some of them only")
    parser.add_argument("--hours", type=float, default=0.25)
    parser.add_argument("--clips", type=int, default=2_000, help="different clips at most")
    parser.add_argument("--pause", type=float, default=0.0, help="seconds of silence after each clip")
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--fold", type=Path, help="fold.json of the run that the model was exported from")
    parser.add_argument("--part", choices=["dev", "test"], default="test")
    parser.add_argument("--vad", choices=["auto", "silero", "energy"], default="auto")
    parser.add_argument("--format", choices=["flac", "wav"], default="flac")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--hear", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.hear:
        hear_alone(arguments)
        return
    if arguments.data is None:
        parser.error("--data is needed")
    result = measure(arguments)
    for name, value in result.items():
        print(f"{name:<38} {value:.3f}" if isinstance(value, float) else f"{name:<38} {value}")
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
