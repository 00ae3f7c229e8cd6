"""Acoustic features as batched, length-aware torch modules.

Conventions shared by every module here:

- in: ``waveform`` (batch, n_samples) float32 in [-1, 1] and ``lengths`` (batch,) int64, the valid samples per row;
- out: ``features`` (batch, n_features, n_frames) and the valid *frames* per row, (batch,) int64;
- frames are centred with zero padding, as librosa does: ``n_frames = 1 + n_samples // hop_length``;
- whatever stands behind a row's length is ignored, and frames behind its last valid one are zero, so that a padded
  batch equals the rows one by one;
- gradients flow, and the module exports to ONNX with a dynamic batch and length.
"""

from undertone.lab.features.cepstral import MFCC, delta, with_deltas
from undertone.lab.features.front_end import FrontEnd
from undertone.lab.features.spectral import LogMel, Mel, PowerSpectrum, frame_mask, mel_filters

FEATURES = {"log-mel": LogMel, "mel": Mel, "mfcc": MFCC}

__all__ = [
    "FEATURES",
    "MFCC",
    "FrontEnd",
    "LogMel",
    "Mel",
    "PowerSpectrum",
    "delta",
    "frame_mask",
    "mel_filters",
    "with_deltas",
]
