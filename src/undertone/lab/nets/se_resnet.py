"""SE-ResNet: a small residual 2-D network on log-mel with attentive statistics pooling, undertone's own first."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from undertone.lab.features.feature import frame_mask
from undertone.lab.nets.blocks import AttentiveStatsPool, ConvNorm2d, Dropout, ResidualSE2d
from undertone.lab.nets.output import Output


class SEResNet(nn.Module):
    """Log-mel in, class logits, frame logits and an embedding out.

    Parameters
    ----------
    n_features
        Bands of the input.
    n_classes
        Emotions.
    widths
        Channels of each stage. Every stage but the first halves bands and frames, the frames only ``time_stages``
        times in all (the stem's halving included).
    n_blocks
        Residual blocks per stage.
    n_hidden
        Channels per frame before pooling.
    n_embedding
        Size of the embedding.
    dropout
        Before the embedding and the classifier.
    stem_bands
        How many bands the first convolution takes together. Four instead of two saves half of the training time: the
        first stage, of few channels on a large map, is otherwise the slowest.
    centred
        A second view of the input beside the first: each band less its mean over the clip, in which microphone, room
        and telephone hardly show.
    """

    def __init__(
        self,
        n_features: int,
        n_classes: int,
        *,
        widths: Sequence[int] = (16, 32, 64, 128),
        n_blocks: int = 1,
        time_stages: int = 2,
        n_hidden: int = 256,
        n_embedding: int = 128,
        dropout: float = 0.3,
        stem_bands: int = 2,
        centred: bool = False,
    ):
        super().__init__()
        if not 1 <= time_stages <= len(widths):
            raise ValueError(f"time_stages must be 1 to {len(widths)}, the number of stages, got {time_stages}")
        self.centred = centred
        self.stem = ConvNorm2d(2 if centred else 1, widths[0], 5, stride=(stem_bands, 2))
        blocks, strides, n_in = [], [], widths[0]
        for stage, width in enumerate(widths):
            for block in range(n_blocks):
                halves = stage > 0 and block == 0
                stride = (2 if halves else 1, 2 if halves and stage < time_stages else 1)
                blocks.append(ResidualSE2d(n_in, width, stride))
                strides.append(stride)
                n_in = width
        self.blocks = nn.ModuleList(blocks)
        self.strides = tuple(strides)
        self.frame_stride = 2**time_stages
        n_bands = -(-n_features // stem_bands)
        for _ in widths[1:]:
            n_bands = -(-n_bands // 2)
        self.project = nn.Sequential(nn.Conv1d(n_in * n_bands, n_hidden, 1, bias=False), nn.BatchNorm1d(n_hidden))
        self.pool = AttentiveStatsPool(n_hidden)
        self.embed = nn.Sequential(
            nn.BatchNorm1d(2 * n_hidden), Dropout(dropout), nn.Linear(2 * n_hidden, n_embedding), nn.ReLU()
        )
        self.classify = nn.Sequential(Dropout(dropout), nn.Linear(n_embedding, n_classes))
        self.classify_frames = nn.Conv1d(n_hidden, n_classes, 1)

    def forward(self, features: Tensor, n_valid: Tensor) -> Output:
        """Logits of a batch of features, (batch, n_features, n_frames), with ``n_valid`` valid frames per row."""
        views = self._views(features, n_valid)
        n_valid = (n_valid + 1) // 2
        hidden = self.stem(views)  # (B, C, F / 2, T / 2)
        mask = frame_mask(n_valid, hidden.shape[3])[:, None, None].to(hidden.dtype)
        hidden = hidden.mul_(mask).relu_()
        for block, (_, stride) in zip(self.blocks, self.strides, strict=True):
            if stride == 2:
                n_valid = (n_valid + 1) // 2
                mask = frame_mask(n_valid, (mask.shape[3] + 1) // 2)[:, None, None].to(hidden.dtype)
            hidden = block(hidden, mask)
        frames = self.project(hidden.flatten(1, 2)).mul_(mask[:, 0]).relu_()  # (B, H, T)
        pooled, attention = self.pool(frames, mask[:, 0, 0])
        embedding = self.embed(pooled)
        frame_logits = self.classify_frames(frames) * mask[:, 0]  # (B, C, T)
        weight = attention.mean(dim=1, keepdim=True)  # (B, 1, T)
        return Output(
            logits=self.classify(embedding),
            frame_logits=frame_logits.transpose(1, 2),
            embedding=embedding,
            frame_vote=(frame_logits * weight).sum(dim=2),
            n_valid=n_valid,
        )

    def _views(self, features: Tensor, n_valid: Tensor) -> Tensor:
        """Return (batch, 1 or 2, n_features, n_frames), zero behind the valid frames as the features are."""
        if not self.centred:
            return features[:, None]
        mean = features.sum(dim=2, keepdim=True) / n_valid[:, None, None]
        mask = frame_mask(n_valid, features.shape[2])[:, None].to(features.dtype)
        return torch.stack([features, (features - mean) * mask], dim=1)
