"""2-D convolutional networks on an image of fixed size: bands by frames, a clip's padding included."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from undertone.lab.nets.blocks import Dropout, require_frames
from undertone.lab.nets.keras import Recurrent, init_as_keras
from undertone.lab.nets.output import Output


class ConvPoolNorm2d(nn.Module):
    """Convolution 3 x 3, rectifier, max pooling, batch norm.

    Pooled before it is rectified: the two commute exactly, and the rectifier has a quarter of the work.
    """

    def __init__(self, n_in: int, n_out: int, padding: str, pool: tuple[int, int] = (2, 2)):
        super().__init__()
        self.conv = nn.Conv2d(n_in, n_out, 3, padding=padding)
        self.norm = nn.BatchNorm2d(n_out)
        self.pool = pool

    def forward(self, hidden: Tensor) -> Tensor:
        """Hidden, (batch, n_out, bands / pool, frames / pool)."""
        return self.norm(F.relu(F.max_pool2d(self.conv(hidden), self.pool)))


class CNN2D(nn.Module):
    """[convolution, rectifier, max pooling, batch norm] per width, mean over the image, dropout, dense.

    Parameters
    ----------
    widths
        Channels of each stage; each halves bands and frames.
    padding
        ``"valid"`` or ``"same"``, of the convolutions.
    n_frames
        Frames of the input; it has to be fixed, because what pads a clip counts as its content here.

    References
    ----------
    amirragab-ds/Speech-Emotion-Recognition-in-Tensorflow-Using-CNNs (mel and MFCC networks).
    """

    def __init__(self, n_features: int, n_classes: int, *, n_frames: int | None,
                 widths: Sequence[int] = (32, 64, 128, 256), padding: str = "same", dropout: float = 0.5):  # fmt: skip
        super().__init__()
        _require_image(n_features, n_frames, len(widths))
        self.stages = nn.Sequential(*(ConvPoolNorm2d(*pair, padding) for pair in pairwise([1, *widths])))
        self.classify = nn.Sequential(Dropout(dropout), nn.Linear(widths[-1], n_classes))
        init_as_keras(self)

    def forward(self, features: Tensor, n_valid: Tensor) -> Output:
        """Logits of features (batch, n_features, n_frames); ``n_valid`` is not looked at."""
        embedding = self.stages(features[:, None]).mean(dim=(2, 3))  # (B, C)
        return Output(logits=self.classify(embedding), embedding=embedding)


class CRNN2D(nn.Module):
    """Stages as of :class:`CNN2D`, then two bidirectional LSTMs over time, dropout, dense.

    Parameters
    ----------
    time_stages
        The first so many stages halve the frames, too; all of them halve the bands. What is left of the frames,
        averaged over the bands, are the steps of the LSTMs.
    one_step
        The LSTMs read the mean over all frames, as a sequence of a single step. So the system was published; nothing is
        recurrent in it.
    n_units
        Units of each LSTM and direction.

    References
    ----------
    amirragab-ds/Speech-Emotion-Recognition-in-Tensorflow-Using-CNNs (CRNN).
    """

    def __init__(self, n_features: int, n_classes: int, *, n_frames: int | None,
                 widths: Sequence[int] = (16, 32, 64, 128), time_stages: int = 2, one_step: bool = False,
                 n_units: int = 64, dropout: float = 0.5):  # fmt: skip
        super().__init__()
        _require_image(n_features, n_frames, len(widths))
        if not 0 <= time_stages <= len(widths):
            raise ValueError(f"time_stages must be 0 to {len(widths)}, the number of stages, got {time_stages}")
        pools = [(2, 2 if stage < time_stages else 1) for stage in range(len(widths))]
        stages = zip(pairwise([1, *widths]), pools, strict=True)
        self.stages = nn.Sequential(*(ConvPoolNorm2d(*pair, "same", pool) for pair, pool in stages))
        self.one_step = one_step
        self.first = Recurrent(widths[-1], n_units, bidirectional=True)
        self.second = Recurrent(2 * n_units, n_units, bidirectional=True)
        self.classify = nn.Sequential(Dropout(dropout), nn.Linear(2 * n_units, n_classes))
        init_as_keras(self)

    def forward(self, features: Tensor, n_valid: Tensor) -> Output:
        """Logits of features (batch, n_features, n_frames); all frames are read, whatever ``n_valid``."""
        sequence = self.stages(features[:, None]).mean(dim=2).transpose(1, 2)  # (B, T, C)
        if self.one_step:
            sequence = sequence.mean(dim=1, keepdim=True)
        n_steps = n_valid.new_full(n_valid.shape, sequence.shape[1])
        states = self.second(self.first(sequence, n_steps), n_steps)
        embedding = self.second.last(states, n_steps)
        return Output(logits=self.classify(embedding), embedding=embedding)


class FlatCNN2D(nn.Module):
    """Max pooling, two convolutions with pooling between them, and dense layers on all that is left of the image.

    Parameters
    ----------
    widths
        Channels of the two 3 x 3 convolutions.
    n_hidden
        Units of each dense layer before the last.
    dropout
        After each pooling, and after the first dense layer.

    References
    ----------
    Nathaniel538/SER-using-2D-CNN: 3,525,672 parameters at 106 x 160 and 8 classes.
    """

    def __init__(self, n_features: int, n_classes: int, *, n_frames: int | None, widths: Sequence[int] = (64, 64),
                 n_hidden: Sequence[int] = (64, 32), dropout: float = 0.2):  # fmt: skip
        super().__init__()
        _require_image(n_features, n_frames, 2)
        first, second = widths
        self.stages = nn.Sequential(
            nn.MaxPool2d(2), Dropout(dropout), nn.Conv2d(1, first, 3), nn.MaxPool2d(2), nn.ReLU(),
            Dropout(dropout), nn.Conv2d(first, second, 3), nn.Flatten(), nn.ReLU(),
        )  # fmt: skip
        rows, columns = ((size // 2 - 2) // 2 - 2 for size in (n_features, n_frames or 0))
        sizes = [second * rows * columns, *n_hidden]
        layers: list[nn.Module] = []
        for n_in, n_out in pairwise(sizes):
            layers += [nn.Linear(n_in, n_out), nn.ReLU(), Dropout(0.0 if layers else dropout)]
        self.dense = nn.Sequential(*layers)
        self.classify = nn.Linear(sizes[-1], n_classes)
        init_as_keras(self)

    def forward(self, features: Tensor, n_valid: Tensor) -> Output:
        """Logits of features (batch, n_features, n_frames); ``n_valid`` is not looked at."""
        embedding = self.dense(self.stages(features[:, None]))
        return Output(logits=self.classify(embedding), embedding=embedding)


def _require_image(n_features: int, n_frames: int | None, n_stages: int) -> None:
    smallest = 3 * 2**n_stages - 2  # of which n -> (n - 2) // 2 leaves one value at the end
    if min(n_features, require_frames(n_frames)) < smallest:
        raise ValueError(f"{n_stages} stages need {smallest} x {smallest} values, got {n_features} x {n_frames}")
