"""eGeMAPSv02 and ComParE 2016, the field's two published feature sets, computed by openSMILE (extra ``egemaps``).

openSMILE and these sets come under audEERING's own licence, which allows research and no commercial product:
https://github.com/audeering/opensmile-python/blob/main/LICENSE. They are for tables and for the classic estimators, and
no part of a model file; ``prosody-functionals`` is a set of our own that is.
"""

from contextlib import suppress
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from undertone.audio import SAMPLE_RATE
from undertone.lab.features.feature import Feature

N_EGEMAPS, N_COMPARE_2016 = 88, 6_373
# openSMILE casts waveform * 32768 to int16, where a sample of exactly 1.0 wraps round to -32768.
HIGHEST_SAMPLE = 32_767 / 32_768


def egemaps(waveform: np.ndarray, *, sample_rate: int = SAMPLE_RATE) -> np.ndarray:
    """Functionals of the extended Geneva minimalistic acoustic parameter set, version 02, (88,) float32.

    Parameters
    ----------
    waveform : (n_samples,) float32
        Mono. A clip that goes beyond full scale is made quieter until its peak is one int16 step below it, instead of
        being wrapped.
    sample_rate
        Hz.

    Raises
    ------
    ImportError
        If opensmile is missing.
    ValueError
        If the waveform is no row of finite samples, or so short (about 0.05 s) that openSMILE finds nothing in it.

    References
    ----------
    Eyben et al. (2016), https://doi.org/10.1109/TAFFC.2015.2457417; opensmile 2.6 ``FeatureSet.eGeMAPSv02``.
    """
    return _compute("eGeMAPSv02", waveform, sample_rate)


def compare_2016(waveform: np.ndarray, *, sample_rate: int = SAMPLE_RATE) -> np.ndarray:
    """Functionals of the Interspeech ComParE challenge of 2016, (6373,) float32; see :func:`egemaps`.

    References
    ----------
    Schuller et al. (2016), https://doi.org/10.21437/Interspeech.2016-129; opensmile 2.6 ``FeatureSet.ComParE_2016``.
    """
    return _compute("ComParE_2016", waveform, sample_rate)


def egemaps_names() -> list[str]:
    """Names of the 88 values of :func:`egemaps`, as openSMILE gives them."""
    return list(_extractor("eGeMAPSv02").feature_names)


def compare_2016_names() -> list[str]:
    """Names of the 6,373 values of :func:`compare_2016`, as openSMILE gives them."""
    return list(_extractor("ComParE_2016").feature_names)


def below_full_scale(waveform: np.ndarray) -> np.ndarray:
    """Waveform whose largest sample is at most 32767 / 32768: as it is, or scaled down as a whole.

    Examples
    --------
    >>> below_full_scale(np.array([0.5, -0.25], np.float32)).tolist()
    [0.5, -0.25]
    >>> (below_full_scale(np.array([1.0, -2.0])) * 32_768).tolist()
    [16383.5, -32767.0]
    """
    peak = float(np.abs(waveform).max(initial=0.0))
    return waveform if peak <= HIGHEST_SAMPLE else waveform * (HIGHEST_SAMPLE / peak)


class OpenSmile(Feature):
    """openSMILE's functionals as a vector per clip, (batch, n_values, 1); NaN where a clip is too short for them.

    Computed clip by clip on the processor, without gradients.

    Parameters
    ----------
    feature_set
        ``eGeMAPSv02`` (88 values) or ``ComParE_2016`` (6,373).
    sample_rate
        Hz of the waveform.

    Raises
    ------
    ImportError
        If opensmile is missing.
    """

    in_graph = False
    n_frames = 1

    def __init__(self, feature_set: str = "eGeMAPSv02", *, sample_rate: int = SAMPLE_RATE):
        super().__init__()
        sizes = {"eGeMAPSv02": N_EGEMAPS, "ComParE_2016": N_COMPARE_2016}
        if feature_set not in sizes:
            raise ValueError(f"feature_set must be one of {', '.join(sizes)}; got {feature_set!r}")
        self.feature_set, self.sample_rate, self.n_features = feature_set, sample_rate, sizes[feature_set]
        _extractor(feature_set)  # says at once if it is missing

    @property
    def names(self) -> list[str]:
        """Names of the values, as openSMILE gives them."""
        return list(_extractor(self.feature_set).feature_names)

    @torch.no_grad()
    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """One vector per clip."""
        rows = np.full((len(waveform), self.n_features), np.nan, np.float32)
        for row, clip, n in zip(rows, waveform.cpu().numpy(), lengths.tolist(), strict=True):
            with suppress(TooShortError):
                row[:] = _compute(self.feature_set, clip[:n], self.sample_rate)
        return torch.from_numpy(rows).to(waveform.device)[:, :, None], torch.ones_like(lengths)


class TooShortError(ValueError):
    """A clip in which openSMILE finds nothing."""


def _compute(feature_set: str, waveform: np.ndarray, sample_rate: int) -> np.ndarray:
    if waveform.ndim != 1 or not waveform.size or not np.isfinite(waveform).all():
        raise ValueError(f"expected finite samples of shape (n_samples,), got an array of shape {waveform.shape}")
    quieter = below_full_scale(np.asarray(waveform, dtype=np.float32))
    functionals = _extractor(feature_set).process_signal(quieter, sample_rate).to_numpy(np.float32)[0]
    if np.isnan(functionals).any():
        raise TooShortError(f"a clip of {waveform.size / sample_rate:.3f} s is too short for {feature_set}")
    return functionals


@lru_cache(maxsize=2)
def _extractor(feature_set: str) -> Any:
    try:
        import opensmile  # pyright: ignore[reportMissingImports] - an extra that the checks do without
    except ImportError as error:
        raise ImportError(
            f"{feature_set} needs 'opensmile', which is not installed; run: pip install 'undertone[egemaps]'"
        ) from error
    return opensmile.Smile(feature_set=opensmile.FeatureSet[feature_set], feature_level="func")
