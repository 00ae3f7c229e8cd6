"""x-vectors: what a speaker sounds like, as one vector per clip, by a time-delay network with statistics pooling.

Snyder et al. (2018), https://doi.org/10.1109/ICASSP.2018.8461375. The network, its 24 mel bands and its sentence
normalisation are SpeechBrain's, so that the weights of ``speechbrain/spkrec-xvect-voxceleb`` fit in. Without them,
:meth:`XVector.fit_to` trains it to tell the speakers of the *training* clips apart: whoever computes x-vectors of test
clips with a network that has heard these speakers gives the answer away.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from undertone.audio import SAMPLE_RATE
from undertone.lab.features.feature import Feature, frame_mask
from undertone.lab.features.resample import Resample
from undertone.lab.features.spectral import PowerSpectrum, SpectralFeature
from undertone.lab.features.torch_zip import CheckpointError, read_tensors

CONTEXTS = ((5, 1), (3, 2), (3, 3), (1, 1), (1, 1))  # kernel and dilation per layer, in frames
N_FFT, HOP_LENGTH = 400, 160  # samples at 16 kHz: 25 ms, 10 ms
FRAMES_PER_SECOND = SAMPLE_RATE // HOP_LENGTH
TOP_DB = 80.0
FULL_SCALE = 32_768  # int16

# Training
BATCH_SIZE = 64
CROP_S = (2.0, 3.0)  # a batch's crops are of one length in this range; shorter clips are repeated
SNR_DB = (5.0, 25.0)
NOISE_S = 60.0  # of each colour
LR = 2e-3

# Hub
WEIGHTS = ("embedding_model.safetensors", "embedding_model.ckpt")  # the first that is there


class FilterBank(SpectralFeature):
    """Log-mel in dB of a Hamming-windowed spectrum, each band's mean over the clip taken off.

    References
    ----------
    SpeechBrain 1.0 ``lobes.features.Fbank`` and ``InputNormalization(norm_type="sentence", std_norm=False)``.
    """

    filters: Tensor

    label = "filter_bank"

    def __init__(self, n_mels: int = 24):
        super().__init__(N_FFT, N_FFT, HOP_LENGTH, SAMPLE_RATE)
        self.power = PowerSpectrum(N_FFT, N_FFT, HOP_LENGTH, window="hamming")
        self.n_features = n_mels
        self.register_buffer("filters", htk_filters(n_mels), persistent=False)  # (n_mels, F)

    def mel_power(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Mel power, (batch, n_mels, n_frames), and valid frames per row: what training mixes noise into."""
        power, n_valid = self.power(waveform, lengths)
        return self.filters @ power, n_valid

    def from_mel_power(self, mel: Tensor, n_valid: Tensor) -> Tensor:
        """Decibels, at most ``TOP_DB`` below the loudest band, less each band's mean over the valid frames."""
        decibels = 10 * mel.clamp_min(1e-10).log10()
        decibels = torch.maximum(decibels, decibels.amax(dim=(1, 2), keepdim=True) - TOP_DB)
        mask = frame_mask(n_valid, mel.shape[2])[:, None]  # (B, 1, T)
        mean = (decibels * mask).sum(dim=2, keepdim=True) / n_valid[:, None, None]
        return (decibels - mean) * mask

    def from_power(self, power: Tensor, n_valid: Tensor) -> Tensor:
        """Bands, (batch, n_mels, n_frames), zero behind the valid frames."""
        return self.from_mel_power(self.filters @ power, n_valid)


def htk_filters(n_mels: int) -> Tensor:
    """Triangles of height 1 at equal steps of HTK's mel scale, (n_mels, n_bins) float32, 0 to 8 kHz.

    Each triangle falls as steeply as it rises: towards both sides it is as wide as its distance to the lower one.

    References
    ----------
    SpeechBrain 1.0 ``processing.features.Filterbank``, atol 1e-4.
    """
    edges_mel = torch.linspace(0, 2595 * math.log10(1 + SAMPLE_RATE / 2 / 700), n_mels + 2, dtype=torch.float64)
    edges_hz = 700 * (10 ** (edges_mel / 2595) - 1)
    bins_hz = torch.linspace(0, SAMPLE_RATE / 2, N_FFT // 2 + 1, dtype=torch.float64)
    width_hz = edges_hz.diff()[:-1, None]
    return (1 - (bins_hz - edges_hz[1:-1, None]).abs() / width_hz).clamp_min(0).float()


class TimeDelay(nn.Module):
    """Dilated convolution, leaky ReLU and batch norm; frames are mirrored at both ends of a row's valid ones."""

    def __init__(self, n_in: int, n_out: int, kernel: int, dilation: int):
        super().__init__()
        self.reach = dilation * (kernel // 2)
        self.conv = nn.Conv1d(n_in, n_out, kernel, dilation=dilation)
        self.norm = nn.BatchNorm1d(n_out)

    def forward(self, frames: Tensor, n_valid: Tensor) -> Tensor:
        """Frames, (batch, n_out, n_frames), of which the valid ones depend on valid ones alone."""
        if self.reach:
            frames = self._mirror(frames, n_valid)
        return self.norm(F.leaky_relu(self.conv(frames)))

    def _mirror(self, frames: Tensor, n_valid: Tensor) -> Tensor:
        position = torch.arange(-self.reach, frames.shape[2] + self.reach, device=frames.device)
        last = n_valid[:, None] - 1
        index = (last - (last - position.abs()).abs()).clamp_min(0)  # (B, T + 2 reach)
        return frames.gather(2, index[:, None].expand(-1, frames.shape[1], -1))


class TDNN(nn.Module):
    """Five time-delay layers, mean and deviation over the valid frames, and the embedding.

    References
    ----------
    SpeechBrain 1.0 ``lobes.models.Xvector``; it adds noise of 1e-5 to 9e-5 to the means, here there is none.
    """

    def __init__(self, n_mels: int, width: int, n_pooled: int, n_embedding: int):
        super().__init__()
        sizes = (n_mels, width, width, width, width, n_pooled)
        self.blocks = nn.ModuleList(
            TimeDelay(n_in, n_out, *context)
            for n_in, n_out, context in zip(sizes[:-1], sizes[1:], CONTEXTS, strict=True)
        )
        self.segment = nn.Linear(2 * n_pooled, n_embedding)

    def forward(self, frames: Tensor, n_valid: Tensor) -> Tensor:
        """Embedding, (batch, n_embedding), of bands (batch, n_mels, n_frames)."""
        for block in self.blocks:
            frames = block(frames, n_valid)
        return self.segment(self._pool(frames.float(), n_valid))

    def _pool(self, frames: Tensor, n_valid: Tensor) -> Tensor:
        mask = frame_mask(n_valid, frames.shape[2])[:, :, None]  # (B, T, 1)
        n = n_valid[:, None]
        mean = (frames @ mask)[:, :, 0] / n  # (B, C)
        variance = ((frames - mean[:, :, None]).square() @ mask)[:, :, 0] / (n - 1).clamp_min(1)
        return torch.cat([mean, variance.clamp_min(1e-12).sqrt() + 1e-5], dim=1)


class XVector(Feature):
    """One x-vector per clip, (batch, n_embedding, 1), by a network that is frozen once it is fitted.

    Its weights are in ``state_dict``. Until they are loaded or :meth:`fit_to` was called, ``forward`` is an error: an
    untrained network gives vectors, too, and nobody would notice.

    Parameters
    ----------
    width, n_pooled
        Channels of layers 1 to 4, and of layer 5, whose mean and deviation are pooled. None means 256 and 768, which
        a processor trains in minutes; with ``pretrained``, the published 512 and 1500.
    n_embedding
        Size of the vector.
    epochs, min_steps
        Passes of :meth:`fit_to` through the clips; of a small corpus as many more as make ``min_steps`` batches.
    pretrained
        ``"speechbrain/spkrec-xvect-voxceleb"`` or another model of that layout on the Hugging Face hub, or a folder
        with its files. :meth:`fit_to` then loads it and trains nothing.
    sample_rate
        Hz of the waveform that comes in; the network hears 16 kHz.

    References
    ----------
    SpeechBrain 1.0 ``EncoderClassifier.encode_batch`` of a single clip, 1e-4 of the largest value.
    """

    label = "xvector"
    n_frames = 1
    is_fitted: Tensor

    def __init__(self, n_mels: int = 24, width: int | None = None, n_pooled: int | None = None, n_embedding: int = 512,
                 *, epochs: int = 5, min_steps: int = 300, pretrained: str = "",
                 sample_rate: int = SAMPLE_RATE):  # fmt: skip
        super().__init__()
        width = width or (512 if pretrained else 256)
        n_pooled = n_pooled or (1500 if pretrained else 768)
        if min(n_mels, width, n_pooled, n_embedding, epochs, min_steps) < 1:
            raise ValueError("n_mels, width, n_pooled, n_embedding, epochs and min_steps must be positive")
        self.epochs, self.min_steps, self.pretrained = epochs, min_steps, pretrained
        self.n_features, self.sample_rate = n_embedding, sample_rate
        self.resample = None if sample_rate == SAMPLE_RATE else Resample(sample_rate, SAMPLE_RATE)
        self.bank = FilterBank(n_mels)
        self.network = TDNN(n_mels, width, n_pooled, n_embedding)
        self.register_buffer("is_fitted", torch.tensor(False))
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "XVector":
        """Stay in evaluation mode: batch norm keeps its statistics while another network trains on the vectors."""
        return super().train(False)

    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """x-vectors, (batch, n_embedding, 1), and 1 valid frame per row.

        Raises
        ------
        RuntimeError
            If there are no weights yet.
        """
        if not (torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export() or bool(self.is_fitted)):
            raise RuntimeError(
                "this XVector has no weights: call fit_to(clips, speaker, seed=...) with the training clips, "
                "or load the state_dict of one that was fitted"
            )
        if self.resample is not None:
            waveform, lengths = self.resample(waveform, lengths)
        embedding = self.network(*self.bank(waveform, lengths))
        return embedding[:, :, None], torch.ones_like(lengths)

    def fit_to(self, clips: Sequence[np.ndarray], speaker: np.ndarray, *, seed: int,
               on_epoch: Callable[[int, int, dict[str, float]], None] | None = None) -> None:  # fmt: skip
        """Train the network to tell the speakers of these clips apart, then freeze it; or load ``pretrained``.

        Crops of 2 to 3 s at a drawn level of noise (white, pink, other clips), cross-entropy over the speakers, Adam
        with a one-cycle learning rate. On one thread of one machine the same seed gives the same weights.

        Parameters
        ----------
        clips : each (n_samples,) int16
            Training clips at 16 kHz, and no others. Empty ones are left out.
        speaker : (n,) int64
            Speaker index of each clip.
        on_epoch
            Called with (epochs done, epochs in all, {"loss", "accuracy"}).

        Raises
        ------
        ValueError
            If the clips are of fewer than two speakers.
        CheckpointError
            If ``pretrained`` cannot be loaded.
        """
        if self.pretrained:
            self.load_pretrained(self.pretrained)
            return
        if len(clips) != len(speaker):
            raise ValueError(f"{len(clips)} clips, but {len(speaker)} speakers")
        heard = [row for row, clip in enumerate(clips) if len(clip)]
        names, target = np.unique(np.asarray(speaker)[heard], return_inverse=True)
        if len(names) < 2:
            raise ValueError(f"x-vectors are trained to tell speakers apart: two are needed, got {len(names)}")
        power = self._mel_powers([clips[row] for row in heard])
        epochs = max(self.epochs, -(-self.min_steps // _n_batches(len(power))))
        _train(self.network, self.bank, power, target, seed=seed, epochs=epochs, on_epoch=on_epoch)
        self.is_fitted.fill_(True)

    def load_pretrained(self, source: str | Path) -> None:
        """Take the weights of SpeechBrain's x-vector network from a folder or from the Hugging Face hub.

        Raises
        ------
        CheckpointError
            If there is no such model, or a weight is missing, left over, of another shape, or not finite.
        """
        path = find_weights(source)
        self.network.load_state_dict(rename_weights(_read_weights(path), self.network.state_dict(), path))
        self.is_fitted.fill_(True)

    @torch.no_grad()
    def _mel_powers(self, clips: Sequence[np.ndarray]) -> list[Tensor]:
        """Mel power of each clip, (n_mels, n_frames), heard through the sample rate that ``forward`` will get."""
        device = self.is_fitted.device
        detour = None if self.resample is None else Resample(SAMPLE_RATE, self.sample_rate).to(device)
        powers = []
        for clip in clips:
            waveform = torch.from_numpy(clip.astype(np.float32) / FULL_SCALE)[None].to(device)
            lengths = torch.tensor([len(clip)], device=device)
            if detour is not None and self.resample is not None:
                waveform, lengths = self.resample(*detour(waveform, lengths))
            powers.append(self.bank.mel_power(waveform, lengths)[0][0])
        return powers


# ---- training ----


def _train(network: TDNN, bank: FilterBank, power: list[Tensor], target: np.ndarray, *, seed: int, epochs: int,
           on_epoch: Callable[[int, int, dict[str, float]], None] | None) -> None:  # fmt: skip
    """Train in place; torch's global generator is left as it was."""
    rng, device = np.random.default_rng(seed), power[0].device
    noises = [power_of_noise.to(device) for power_of_noise in _noise_powers(bank, rng)]
    labels = torch.from_numpy(target).to(device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        _draw_weights(network)
        n_embedding = network.segment.out_features
        head = nn.Sequential(nn.LeakyReLU(), nn.BatchNorm1d(n_embedding), nn.Linear(n_embedding, int(target.max()) + 1))
    head.to(device)
    network.requires_grad_(True).train()
    optimizer = torch.optim.Adam([*network.parameters(), *head.parameters()], lr=LR)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, epochs=epochs, steps_per_epoch=_n_batches(len(power)))
    for epoch in range(epochs):
        sums = np.zeros(2)
        for rows in _batches(len(power), rng):
            frames = _crop(power, rows, noises, rng)
            n_valid = torch.full((len(rows),), frames.shape[2], device=device)
            with _autocast(device):
                logits = head(network(bank.from_mel_power(frames, n_valid), n_valid)).float()
            loss = F.cross_entropy(logits, labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            sums += len(rows) * np.array([loss.item(), (logits.argmax(dim=1) == labels[rows]).float().mean().item()])
        if on_epoch is not None:
            loss_mean, accuracy = sums / len(power)
            on_epoch(epoch + 1, epochs, {"loss": float(loss_mean), "accuracy": float(accuracy)})
    network.requires_grad_(False).eval()


def _draw_weights(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.Conv1d | nn.BatchNorm1d | nn.Linear):
            module.reset_parameters()


def _n_batches(n: int) -> int:
    return max(1, round(n / BATCH_SIZE))


def _batches(n: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Shuffled rows in batches; what is left over is spread over them, since batch norm needs several rows."""
    return np.array_split(rng.permutation(n), _n_batches(n))


def _autocast(device: torch.device):
    """Compute in bf16 where the processor has instructions for it: twice as fast."""
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    if device.type == "cpu" and (capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")):
        return torch.autocast("cpu", torch.bfloat16)
    return nullcontext()


@torch.no_grad()
def _noise_powers(bank: FilterBank, rng: np.random.Generator) -> list[Tensor]:
    """Mel power of white and of pink noise, (n_mels, n_frames) each, of mean 1."""
    white = rng.standard_normal(round(NOISE_S * SAMPLE_RATE))
    spectrum = np.fft.rfft(rng.standard_normal(len(white)))
    pink = np.fft.irfft(spectrum / np.sqrt(np.arange(1, len(spectrum) + 1)), len(white))
    waveform = torch.from_numpy(np.stack([white, pink]).astype(np.float32)).to(bank.filters.device)
    power, _ = bank.mel_power(waveform, torch.full((2,), waveform.shape[1], device=waveform.device))
    return [row / row.mean() for row in power]


def _crop(power: list[Tensor], rows: np.ndarray, noises: list[Tensor], rng: np.random.Generator) -> Tensor:
    """Crops of one length out of the clips at ``rows``, with noise, (batch, n_mels, n_frames) mel power.

    Powers of independent sounds add up on average, so noise is added here and not to the waveform: the spectrum of
    every clip is computed once, whatever the number of epochs.
    """
    n_frames = round(rng.uniform(*CROP_S) * FRAMES_PER_SECOND)
    clean = torch.stack([_cut(power[row], n_frames, rng) for row in rows])
    others = (*noises, *(power[row] for row in rng.choice(len(power), len(noises))))
    noise = torch.stack([_cut(others[index], n_frames, rng) for index in rng.integers(len(others), size=len(rows))])
    share = torch.from_numpy(10 ** (-rng.uniform(*SNR_DB, size=len(rows)) / 10)).float().to(clean.device)
    level = clean.mean(dim=(1, 2)) / noise.mean(dim=(1, 2)).clamp_min(1e-10)
    return clean + (share * level)[:, None, None] * noise


def _cut(power: Tensor, n_frames: int, rng: np.random.Generator) -> Tensor:
    """Stretch of (n_mels, n_frames) at a drawn place; a shorter clip is repeated."""
    n_own = power.shape[1]
    if n_own < n_frames:
        power = power.repeat(1, -(-n_frames // n_own) + 1)
        n_own = min(power.shape[1], n_frames + n_own)
    start = rng.integers(n_own - n_frames + 1)
    return power[:, start : start + n_frames]


# ---- SpeechBrain's weights ----


def find_weights(source: str | Path) -> Path:
    """Weights file in a folder of SpeechBrain's layout; of another ``source``, of the hub's model of that name.

    Raises
    ------
    CheckpointError
        If there is none, or the hub cannot be reached.
    """
    folder = Path(source) if Path(source).is_dir() else _download(str(source))
    for name in WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    raise CheckpointError(f"{folder} holds no {' or '.join(WEIGHTS)}, as SpeechBrain's x-vector models do")


def _download(name: str) -> Path:
    if not 0 < name.find("/") == name.rfind("/") < len(name) - 1:  # OWNER/MODEL
        raise CheckpointError(f"there is no folder {name}, and a model of the hub is named like 'speechbrain/...'")
    try:
        import huggingface_hub  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise CheckpointError(
            f"huggingface_hub fetches {name} but is not installed; run: pip install 'undertone[ssl]', "
            "or give a folder with the model's files"
        ) from error
    try:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=["hyperparams.yaml", *WEIGHTS]))
    except Exception as error:  # connection, name, rights: the library has its own error for each
        raise CheckpointError(f"{name} could not be fetched ({error}); give a folder with its files") from error


def _read_weights(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".ckpt":
        return read_tensors(path)
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise CheckpointError(f"{path} is no safetensors file: {error}") from error


def rename_weights(theirs: dict[str, Tensor], ours: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Weights under the names of :class:`TDNN`; its layer k is SpeechBrain's blocks 3k (convolution) and 3k + 2 (norm).

    Raises
    ------
    CheckpointError
        If a name is missing or left over, or a weight has another shape than ours or is not finite.
    """
    names = {name: _their_name(name) for name in ours}
    if missing := sorted(set(names.values()) - set(theirs)):
        raise CheckpointError(f"{path} lacks {missing[0]} ({len(missing)} missing in all): not SpeechBrain's x-vectors")
    if left_over := sorted(set(theirs) - set(names.values())):
        raise CheckpointError(f"{path} holds {left_over[0]}, which SpeechBrain's x-vector network does not have")
    renamed = {name: theirs[their_name] for name, their_name in names.items()}
    for name, value in renamed.items():
        if value.shape != ours[name].shape:
            shapes = f"{tuple(value.shape)}, here {tuple(ours[name].shape)}"
            raise CheckpointError(
                f"{names[name]} in {path} is {shapes}: set n_mels, width, n_pooled, n_embedding to fit"
            )
        if not value.isfinite().all():
            raise CheckpointError(f"{names[name]} in {path} holds numbers that are not finite")
    return renamed


def _their_name(name: str) -> str:
    first, *rest = name.split(".")
    if first == "segment":
        return ".".join([f"blocks.{3 * len(CONTEXTS) + 1}.w", *rest])
    layer, part, value = rest
    return f"blocks.{3 * int(layer) + (2 if part == 'norm' else 0)}.{part}.{value}"
