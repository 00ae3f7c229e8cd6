"""Networks: features and valid frames in, :class:`Output` out. Blocks first, then one file per family.

Networks that take ``n_frames`` as a required argument look at an input of fixed size, padding included, as most
published systems do. The others follow a clip's length, and padding never changes their output.
"""

from undertone.lab.nets.cnn_1d import CNN1D, ConvLSTM1D
from undertone.lab.nets.cnn_2d import CNN2D, CRNN2D, FlatCNN2D
from undertone.lab.nets.mlp import MLP
from undertone.lab.nets.output import Output
from undertone.lab.nets.recurrent import CRNN, RNN
from undertone.lab.nets.se_resnet import SEResNet

NETWORKS = {
    "cnn-1d": CNN1D,
    "cnn-2d": CNN2D,
    "conv-lstm-1d": ConvLSTM1D,
    "crnn": CRNN,
    "crnn-2d": CRNN2D,
    "flat-cnn-2d": FlatCNN2D,
    "mlp": MLP,
    "rnn": RNN,
    "se-resnet": SEResNet,
}

__all__ = [
    "CNN1D",
    "CNN2D",
    "CRNN",
    "CRNN2D",
    "MLP",
    "NETWORKS",
    "RNN",
    "ConvLSTM1D",
    "FlatCNN2D",
    "Output",
    "SEResNet",
]
