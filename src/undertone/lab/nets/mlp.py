"""Dense layers on a vector per clip."""

from collections.abc import Sequence

from torch import Tensor, nn

from undertone.lab.nets.blocks import require_frames
from undertone.lab.nets.keras import init_as_keras
from undertone.lab.nets.output import Output
from undertone.lab.nets.recurrent import Dense


class MLP(nn.Module):
    """[linear, rectifier, dropout] per entry of ``n_hidden``, and a linear layer.

    Parameters
    ----------
    n_frames
        Frames of the input, which have to be fixed: 1 where the features are a vector per clip.
    """

    def __init__(self, n_features: int, n_classes: int, *, n_frames: int | None, n_hidden: Sequence[int] = (300,),
                 dropout: float = 0.0):  # fmt: skip
        super().__init__()
        sizes = [n_features * require_frames(n_frames), *n_hidden]
        self.dense = Dense(sizes, dropout)
        self.classify = nn.Linear(sizes[-1], n_classes)
        init_as_keras(self)

    def forward(self, features: Tensor, n_valid: Tensor) -> Output:
        """Logits of features (batch, n_features, n_frames); ``n_valid`` is not looked at."""
        embedding = self.dense(features.flatten(1))
        return Output(logits=self.classify(embedding), embedding=embedding)
