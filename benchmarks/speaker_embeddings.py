"""How much of the emotion is left in speaker embeddings, and whether more speakers to learn from leave more of it.

    pip download --no-deps resemblyzer && unzip Resemblyzer-*.whl resemblyzer/pretrained.pt
    python benchmarks/speaker_embeddings.py --data CORPORA --resemblyzer resemblyzer/pretrained.pt --json out.json

A support vector machine (RBF, C = 10, standardised values) learns the emotion from the embeddings of the training
clips of ``crema-d-random``; its accuracy on dev clips is printed for

- ``ours``: x-vectors trained on those clips' own eighty-odd speakers, as ``dhavan-*`` have them here
- ``untrained``: the same network as it starts, with weights drawn by chance
- ``resemblyzer``: the last state of Resemblyzer's encoder (Apache 2.0; three LSTMs that learned from the thousands of
  speakers of VoxCeleb and LibriSpeech), averaged over its windows of 1.6 s; with ``--resemblyzer``. The file is read
  with torch's restricted unpickler. SpeechBrain's x-vectors, which the authors of ``dhavan-*`` took, learned from
  VoxCeleb as well.
"""

import argparse
import json
import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import librosa
import numpy as np
import torch
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from torch import nn
from x_vectors import embed

from undertone.audio import SAMPLE_RATE
from undertone.lab.data import to_float
from undertone.lab.evaluation import build_split
from undertone.lab.experiment import load_dataset
from undertone.lab.features.xvector import XVector

N_MELS, N_FFT, HOP, N_STATE = 40, 400, 160, 256  # Resemblyzer's
WINDOW, STEP = 160, 77  # frames: 1.6 s, and 1.3 windows a second
LOUDNESS_DBFS = -30.0


class ResemblyzerEncoder(nn.Module):
    """Three LSTMs over power mel frames, (batch, frames, 40) -> their last state, (batch, 256)."""

    def __init__(self, weights):
        super().__init__()
        self.lstm = nn.LSTM(N_MELS, N_STATE, 3, batch_first=True)
        self.load_state_dict({name: value for name, value in weights.items() if name.startswith("lstm.")})

    def forward(self, mel):
        """Last state of the last layer."""
        return self.lstm(mel)[1][0][-1]


@torch.inference_mode()
def embed_with_resemblyzer(path, clips):
    """Embeddings, (n, 256), of clips at 16 kHz, without Resemblyzer's removal of long pauses."""
    weights = torch.load(path, map_location="cpu", weights_only=True)["model_state"]
    encoder = ResemblyzerEncoder(weights).eval()
    vectors = np.zeros((len(clips), N_STATE), np.float32)
    for row, clip in enumerate(clips):
        waveform = to_float(clip)
        rms = np.sqrt(np.mean(np.square(waveform)))
        waveform = waveform * (10 ** (LOUDNESS_DBFS / 20) / max(rms, 1e-6))
        starts = np.arange(0, max(1, len(waveform) // HOP + 2 - WINDOW + STEP), STEP)
        if len(starts) > 1 and len(waveform) < (starts[-1] + 0.75 * WINDOW) * HOP:  # too little of the last window
            starts = starts[:-1]
        waveform = np.pad(waveform, (0, max(0, (starts[-1] + WINDOW) * HOP - len(waveform))))
        mel = librosa.feature.melspectrogram(y=waveform, sr=SAMPLE_RATE, n_fft=N_FFT, hop_length=HOP, n_mels=N_MELS)
        windows = np.stack([mel.T[start : start + WINDOW] for start in starts])
        vectors[row] = encoder(torch.from_numpy(windows.astype(np.float32))).mean(dim=0).numpy()
    return vectors


def accuracy(vectors, emotion, n_train):
    """Accuracy on the clips behind the first ``n_train``, which the machine learns from."""
    machine = make_pipeline(StandardScaler(), SVC(C=10)).fit(vectors[:n_train], emotion[:n_train])
    return round(float(machine.score(vectors[n_train:], emotion[n_train:])), 3)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--resemblyzer", type=Path, help="pretrained.pt of that package")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    dataset = load_dataset(arguments.data, ["crema-d"])
    split = build_split("crema-d-random", dataset.utterances, 0, digests=dataset.waveforms.digests)
    rows, n_train = np.concatenate([split.train, split.dev]), len(split.train)
    clips = dataset.waveforms.select(rows).clips
    emotion = np.array([dataset.utterances[row].emotion for row in rows])
    speaker = np.unique([dataset.utterances[row].speaker_id for row in rows], return_inverse=True)[1]

    results = {"n_train": n_train, "n_dev": len(rows) - n_train}
    torch.manual_seed(arguments.seed)
    module = XVector()
    module.is_fitted.fill_(True)
    results["untrained"] = accuracy(embed(module, clips), emotion, n_train)
    print("untrained", results["untrained"], flush=True)
    module = XVector()
    module.fit_to(clips[:n_train], speaker[:n_train], seed=arguments.seed)
    results["ours"] = accuracy(embed(module, clips), emotion, n_train)
    print("ours", results["ours"], flush=True)
    if arguments.resemblyzer:
        vectors = embed_with_resemblyzer(arguments.resemblyzer, clips)
        results["resemblyzer"] = accuracy(vectors, emotion, n_train)
        print("resemblyzer", results["resemblyzer"], flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
