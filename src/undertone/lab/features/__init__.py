"""Acoustic features as batched, length-aware torch modules.

Conventions shared by every module here:

- in: ``waveform`` (batch, n_samples) float32 in [-1, 1] and ``lengths`` (batch,) int64, the valid samples per row;
- out: ``features`` (batch, n_features, n_frames) and the valid *frames* per row, (batch,) int64;
- frames are centred with zero padding, as librosa does: ``n_frames = 1 + n_samples // hop_length``;
- whatever stands behind a row's length is ignored, and frames behind its last valid one are zero, so that a padded
  batch equals the rows one by one;
- gradients flow, and the module exports to ONNX with a dynamic batch and length.
"""

import inspect
from collections.abc import Mapping
from typing import Any

from undertone.audio import SAMPLE_RATE
from undertone.lab.features.cepstral import MFCC, delta, with_deltas
from undertone.lab.features.compose import Excerpt, FixedFrames, Functionals, GroupBands, Ravel, Resize, Stack
from undertone.lab.features.egemaps import OpenSmile
from undertone.lab.features.feature import Feature, frame_mask
from undertone.lab.features.front_end import FrontEnd, InputConfig
from undertone.lab.features.harmonic import Chroma, Harmonic, Percussive, SpectralContrast, Tonnetz
from undertone.lab.features.prosody import Loudness, Pitch, Prosody, Voice, formants
from undertone.lab.features.prosody_functionals import ProsodyFunctionals, SpectralBalance
from undertone.lab.features.shape import RMS, Bandwidth, Centroid, Flatness, PolyFeatures, Rolloff, ZeroCrossingRate
from undertone.lab.features.spectral import LogMel, Mel, PowerSpectrum, SpectralFeature, mel_filters
from undertone.lab.features.xvector import XVector

FEATURES: dict[str, type[Feature]] = {
    "bandwidth": Bandwidth,
    "centroid": Centroid,
    "chroma": Chroma,
    "excerpt": Excerpt,
    "fixed-frames": FixedFrames,
    "flatness": Flatness,
    "functionals": Functionals,
    "group-bands": GroupBands,
    "harmonic": Harmonic,
    "log-mel": LogMel,
    "loudness": Loudness,
    "mel": Mel,
    "mfcc": MFCC,
    "opensmile": OpenSmile,
    "percussive": Percussive,
    "pitch": Pitch,
    "poly": PolyFeatures,
    "power": PowerSpectrum,
    "prosody": Prosody,
    "prosody-functionals": ProsodyFunctionals,
    "ravel": Ravel,
    "resize": Resize,
    "rms": RMS,
    "rolloff": Rolloff,
    "spectral-balance": SpectralBalance,
    "spectral-contrast": SpectralContrast,
    "stack": Stack,
    "tonnetz": Tonnetz,
    "voice": Voice,
    "x-vector": XVector,
    "zcr": ZeroCrossingRate,
}


def build_features(section: Mapping[str, Any], *, sample_rate: int = SAMPLE_RATE) -> Feature:
    """Build a feature module from a recipe's ``[features]``: a ``kind``, its arguments, and its ``parts`` if any.

    Parameters
    ----------
    sample_rate
        Hz of the waveforms it will get; handed to every part that asks for it.

    Raises
    ------
    ValueError
        If there is no such kind, or it takes no such argument.
    """
    kind = section.get("kind")
    if kind not in FEATURES:
        raise ValueError(f"features need a kind out of: {', '.join(sorted(FEATURES))}; got {kind!r}")
    parameters = inspect.signature(FEATURES[kind]).parameters
    known = [name for name in parameters if name != "sample_rate"]
    if unknown := sorted(set(section) - {"kind", *known}):
        raise ValueError(f"unknown key {unknown[0]!r}; the features {kind} take: {', '.join(known)}")
    arguments = {key: value for key, value in section.items() if key != "kind"}
    if "parts" in arguments:
        arguments["parts"] = [build_features(part, sample_rate=sample_rate) for part in arguments["parts"]]
    if "sample_rate" in parameters:
        arguments["sample_rate"] = sample_rate
    return FEATURES[kind](**arguments)


__all__ = [
    "FEATURES",
    "MFCC",
    "RMS",
    "Bandwidth",
    "Centroid",
    "Chroma",
    "Excerpt",
    "Feature",
    "FixedFrames",
    "Flatness",
    "FrontEnd",
    "Functionals",
    "GroupBands",
    "Harmonic",
    "InputConfig",
    "LogMel",
    "Loudness",
    "Mel",
    "Percussive",
    "Pitch",
    "PolyFeatures",
    "PowerSpectrum",
    "Prosody",
    "ProsodyFunctionals",
    "Ravel",
    "Resize",
    "Rolloff",
    "SpectralBalance",
    "SpectralContrast",
    "SpectralFeature",
    "Stack",
    "Tonnetz",
    "Voice",
    "XVector",
    "ZeroCrossingRate",
    "build_features",
    "delta",
    "formants",
    "frame_mask",
    "mel_filters",
    "with_deltas",
]
