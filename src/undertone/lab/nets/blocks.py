"""Building blocks shared by the networks. Tensors in, tensors out; padding never changes a valid frame.

2-D blocks work on (batch, channels, bands, frames) with a mask (batch, 1, 1, frames), 1 on valid frames. A block
multiplies by the mask whatever a convolution will read next, which makes the padding of a batch the same zeros that the
convolution itself puts around a clip standing alone.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Dropout(nn.Dropout):
    """Dropout that draws 16 random bits for a value, where torch on a CPU draws 64 and takes four times as long.

    A value is kept with a probability right to 2**-17, and divided by just that.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Return ``input``, of any shape, some of it zero, its layout in memory kept; in evaluation, as it is."""
        n_kept = round((1 - self.p) * 2**16)  # of the numbers that may be drawn
        if not self.training or not 0 < n_kept < 2**16 or input.device.type != "cpu":
            return super().forward(input)
        bits = torch.empty(-(-input.numel() // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
        layout = torch.empty_like(input, device="meta").stride()
        kept = bits.as_strided(input.shape, layout) < n_kept - 2**15
        return input * kept.to(input.dtype).mul_(2**16 / n_kept)


class ConvNorm2d(nn.Sequential):
    """Convolution without bias, batch norm."""

    def __init__(self, n_in: int, n_out: int, kernel_size: int = 3, stride: tuple[int, int] = (1, 1)):
        padding = (kernel_size - 1) // 2
        super().__init__(
            nn.Conv2d(n_in, n_out, kernel_size, stride=stride, padding=padding, bias=False),
            nn.BatchNorm2d(n_out),
        )


class SqueezeExcite2d(nn.Module):
    """Channel gates from the mean over bands and valid frames.

    References
    ----------
    Hu et al., Squeeze-and-Excitation Networks, CVPR 2018, arXiv:1709.01507.
    """

    def __init__(self, n_channels: int, reduction: int = 8):
        super().__init__()
        self.down = nn.Linear(n_channels, max(8, n_channels // reduction))
        self.up = nn.Linear(max(8, n_channels // reduction), n_channels)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Gated hidden, (batch, channels, bands, frames)."""
        means = hidden.movedim(1, 3).mean(dim=1)  # (B, T, C); the channels last, as the gradient is to have them
        valid = mask[:, 0, 0, :, None]  # (B, T, 1)
        mean = (means * valid).sum(dim=1) / valid.sum(dim=1)  # (B, C)
        gate = torch.sigmoid(self.up(F.relu(self.down(mean))))  # (B, C)
        return hidden * gate[:, :, None, None]


class ResidualSE2d(nn.Module):
    """Two 3 x 3 convolutions with squeeze-and-excitation and a skip; ``stride`` = (bands, frames)."""

    def __init__(self, n_in: int, n_out: int, stride: tuple[int, int] = (1, 1)):
        super().__init__()
        self.first = ConvNorm2d(n_in, n_out, stride=stride)
        self.second = ConvNorm2d(n_out, n_out)
        self.squeeze_excite = SqueezeExcite2d(n_out)
        self.skip = nn.Identity() if n_in == n_out and stride == (1, 1) else ConvNorm2d(n_in, n_out, 1)
        self.stride = stride

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Hidden of the next resolution; ``mask`` is that resolution's, and the output is zero where it is.

        The mask multiplies in place, before the rectifier: a batch norm does not need its own output for its gradient.
        """
        out = self.first(hidden).mul_(mask).relu_()
        out = self.squeeze_excite(self.second(out), mask)
        # Every second point is taken here, not by the convolution's stride: oneDNN 3.12, in torch 2.13, writes behind
        # its memory in the bf16 gradient of a strided 1 x 1 convolution of few channels; the process dies much later.
        bands, frames = self.stride
        skipped = hidden.movedim(1, 3)[:, ::bands, ::frames].movedim(3, 1)
        return (out + self.skip(skipped)).mul_(mask).relu_()


class AttentiveStatsPool(nn.Module):
    """Attention-weighted mean and deviation over valid frames: (batch, channels, frames) -> (batch, 2 * channels).

    The attention sees each frame beside the clip's own mean and deviation.

    References
    ----------
    Okabe et al., Attentive Statistics Pooling, Interspeech 2018, arXiv:1803.10963; the context is ECAPA-TDNN's,
    arXiv:2005.07143.
    """

    def __init__(self, n_channels: int, n_hidden: int = 64):
        super().__init__()
        self.score = nn.Sequential(
            nn.Conv1d(3 * n_channels, n_hidden, 1), nn.Tanh(), nn.Conv1d(n_hidden, n_channels, 1)
        )

    def forward(self, hidden: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Pooled statistics, (batch, 2 * channels), and the attention, (batch, channels, frames), which sums to 1.

        Parameters
        ----------
        hidden : (batch, channels, frames)
        mask : (batch, frames)
            1 on valid frames; every row needs one.
        """
        valid = mask[:, None]  # (B, 1, T)
        mean, std = _weighted_stats(hidden, valid / valid.sum(dim=2, keepdim=True))
        context = torch.cat([hidden, mean.expand_as(hidden), std.expand_as(hidden)], dim=1)
        score = self.score(context).masked_fill(valid == 0, -torch.inf)
        attention = torch.softmax(score, dim=2)
        mean, std = _weighted_stats(hidden, attention)
        return torch.cat([mean, std], dim=1).squeeze(2), attention


def require_frames(n_frames: int | None) -> int:
    """Return the frames of a network's input, which have to be fixed: what pads a clip counts as its content.

    Raises
    ------
    ValueError
        If they follow the clip's length.
    """
    if n_frames is None:
        raise ValueError("this network needs a fixed number of frames; wrap the features in kind = 'fixed-frames'")
    return n_frames


def _weighted_stats(hidden: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    mean = (hidden * weight).sum(dim=2, keepdim=True)
    variance = ((hidden - mean).square() * weight).sum(dim=2, keepdim=True)
    return mean, variance.clamp_min(1e-5).sqrt()
