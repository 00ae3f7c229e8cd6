"""Networks: features and valid frames in, :class:`Output` out. Blocks first, then one file per family."""

from undertone.lab.nets.output import Output
from undertone.lab.nets.se_resnet import SEResNet

NETWORKS = {"se-resnet": SEResNet}

__all__ = ["NETWORKS", "Output", "SEResNet"]
