"""How well x-vectors trained on CREMA-D tell speakers apart, and how long that training takes.

    python benchmarks/x_vectors.py --data CORPORA --json x_vectors.json

Two trainings on one core: on the training clips of ``crema-d-random``, measured on other clips of the same speakers,
and on the training speakers of ``crema-d-speaker`` fold 0, measured on speakers it has never heard.

- ``eer``: equal error rate over all pairs of held-out clips, same speaker against another, by cosine
- ``eer_same_sex``: the same, and the other speaker has the same sex
- ``nearest``: share of held-out clips whose nearest clip is of the same speaker; it is sought among the training
  clips where the speakers are known, else among the other held-out clips
- ``fit_s``: processor seconds of the training
"""

import argparse
import json
import os
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from undertone.lab.corpora import load
from undertone.lab.data import decode_utterances, pad_batch, to_float
from undertone.lab.evaluation import build_split
from undertone.lab.features.xvector import XVector

PROTOCOLS = ("crema-d-random", "crema-d-speaker")


@torch.inference_mode()
def embed(module, clips, batch_size=32):
    """x-vectors, (n, n_embedding), in the order of the clips."""
    order = np.argsort([len(clip) for clip in clips], kind="stable")
    vectors = np.zeros((len(clips), module.n_features), np.float32)
    for rows in np.split(order, range(batch_size, len(order), batch_size)):
        waveform, lengths = pad_batch([to_float(clips[row]) for row in rows])
        vectors[rows] = module(torch.from_numpy(waveform), torch.from_numpy(lengths))[0][:, :, 0].numpy()
    return vectors


def equal_error_rate(same, other):
    """Rate at which as many pairs of one speaker are refused as pairs of two are accepted."""
    scores = np.concatenate([same, other])
    is_same = np.concatenate([np.ones(len(same)), np.zeros(len(other))])[np.argsort(scores, kind="stable")]
    refused = np.cumsum(is_same) / len(same)
    accepted = 1 - np.cumsum(1 - is_same) / len(other)
    crossing = np.argmin(np.abs(refused - accepted))
    return float((refused[crossing] + accepted[crossing]) / 2)


def measure(vectors, speaker, sex, known=None):
    """Scores of held-out vectors; ``known`` is (vectors, speakers) in which the nearest clip is sought."""
    cosine = vectors @ vectors.T
    pair = np.triu(np.ones_like(cosine, dtype=bool), 1)
    same, same_sex = speaker[:, None] == speaker, sex[:, None] == sex
    ours = cosine[pair & same]
    if known is None:
        nearest = speaker[(cosine - 3 * np.eye(len(cosine))).argmax(axis=1)]
    else:
        nearest = known[1][(vectors @ known[0].T).argmax(axis=1)]
    return {
        "eer": equal_error_rate(ours, cosine[pair & ~same]),
        "eer_same_sex": equal_error_rate(ours, cosine[pair & ~same & same_sex]),
        "nearest": float((nearest == speaker).mean()),
        "n_clips": len(vectors),
        "n_speakers": len(set(speaker.tolist())),
    }


def run(protocol, utterances, waveforms, options, seed):
    """Train on one split's training clips and measure on what it holds out."""
    split = build_split(protocol, utterances, 0, digests=waveforms.digests)
    held_out = split.test if protocol == "crema-d-speaker" else np.concatenate([split.dev, split.test])
    speaker = np.unique([utterance.speaker_id for utterance in utterances], return_inverse=True)[1]
    sex = np.array([utterance.sex for utterance in utterances])
    module = XVector(**options)
    started = time.process_time()
    module.fit_to(waveforms.select(split.train).clips, speaker[split.train], seed=seed,
                  on_epoch=lambda done, n, scores: print(f"  epoch {done}/{n}", scores, flush=True))  # fmt: skip
    seconds = time.process_time() - started
    train = embed(module, waveforms.select(split.train).clips)
    test = embed(module, waveforms.select(held_out).clips)
    train, test = ((part - train.mean(axis=0)) for part in (train, test))
    train, test = ((part / np.linalg.norm(part, axis=1, keepdims=True)) for part in (train, test))
    known = (train, speaker[split.train]) if protocol == "crema-d-random" else None
    scores = measure(test, speaker[held_out], sex[held_out], known)
    return {**scores, "fit_s": round(seconds, 1), "n_train": len(split.train)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--options", type=json.loads, default={}, help='of XVector, as JSON: {"epochs": 4}')
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--protocols", nargs="+", default=PROTOCOLS, choices=PROTOCOLS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    utterances = load(arguments.data, ["crema-d"])
    waveforms = decode_utterances(utterances)
    usable = np.flatnonzero((waveforms.n_samples > 0) & ~waveforms.is_silent)
    utterances, waveforms = [utterances[row] for row in usable], waveforms.select(usable)
    results = {}
    for protocol in arguments.protocols:
        results[protocol] = run(protocol, utterances, waveforms, arguments.options, arguments.seed)
        print(protocol, results[protocol], flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
