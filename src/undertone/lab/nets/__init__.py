"""Networks: features and valid frames in, :class:`Output` out. Blocks first, then one file per family."""

from undertone.lab.nets.cnn_2d import CNN2D, CRNN2D
from undertone.lab.nets.output import Output
from undertone.lab.nets.se_resnet import SEResNet

NETWORKS = {"cnn-2d": CNN2D, "crnn-2d": CRNN2D, "se-resnet": SEResNet}

__all__ = ["CNN2D", "CRNN2D", "NETWORKS", "Output", "SEResNet"]
