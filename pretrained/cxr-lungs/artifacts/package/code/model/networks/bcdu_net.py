"""BCDU-Net (Azad et al. 2019, ICCV workshops, "Bi-Directional ConvLSTM U-Net with Densely Connected Convolutions")."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.networks.blocks import SegmentationNetwork, scaled
from model.networks.convolutions import double_convolution

DROPOUT = 0.5


def hard_sigmoid(x: Tensor) -> Tensor:
    """Return max(0, min(1, 0.2 x + 0.5)), Keras' hard sigmoid; PyTorch's has a slope of 1/6."""
    return (0.2 * x + 0.5).clamp(0, 1)


class ConvLSTMPair(nn.Module):
    """A convolutional LSTM (Shi et al. 2015, no peepholes) over a sequence of two maps; returns the last output.

    With f filters it has 4 f (9 (in_channels + f)) + 4 f parameters. Its four gates are in Keras' order: input, forget,
    candidate, output.
    """

    def __init__(self, in_channels: int, filters: int) -> None:
        super().__init__()
        self.input = nn.Conv2d(in_channels, 4 * filters, 3, padding=1)
        self.recurrent = nn.Conv2d(filters, 4 * filters, 3, padding=1, bias=False)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Map two maps (N, in_channels, H, W), in sequence order, to (N, filters, H, W), -1 to 1."""
        # The state starts at zero, so the first step needs no forget gate and no recurrent convolution.
        gate, _, candidate, output = self.input(first).chunk(4, dim=1)
        cell = hard_sigmoid(gate) * candidate.tanh()
        hidden = hard_sigmoid(output) * cell.tanh()
        gate, forget, candidate, output = (self.input(second) + self.recurrent(hidden)).chunk(4, dim=1)
        cell = hard_sigmoid(forget) * cell + hard_sigmoid(gate) * candidate.tanh()
        last: Tensor = hard_sigmoid(output) * cell.tanh()
        return last

    def start(self) -> None:
        """Initialise as in Keras: He for the input kernel, orthogonal for the recurrent kernel, forget biases 1."""
        nn.init.kaiming_normal_(self.input.weight, nonlinearity="relu")
        nn.init.orthogonal_(self.recurrent.weight)
        filters = self.recurrent.in_channels
        with torch.no_grad():
            self.input.bias.zero_()[filters : 2 * filters] = 1  # type: ignore[union-attr]


class BCDUNet(SegmentationNetwork):
    """A U-Net of three levels with dense convolutions at the bottom and convolutional LSTMs that fuse the skips.

    The variant with three dense convolutions (D3): 20,658,821 trainable parameters and 896 running statistics at width
    1 and one input channel. As in the authors' code, and unlike the title, the recurrence is one-directional: over the
    upsampled map, then the skip. Kernels are initialised from He's normal distribution (the 1x1 head from Glorot's).

    One deviation: the two-channel convolution before the head has an initial bias of 1 instead of 0. Otherwise its ReLU
    may be 0 at every pixel from the first step, without any gradient. These two channels are not scaled.

    Args:
        width: factor of the paper's channel counts 64, 128, 256 and, at the bottom, 512.
        in_channels: number of input channels.
    """

    stride = 8

    def __init__(self, width: float = 1.0, in_channels: int = 1) -> None:
        super().__init__()
        c1, c2, c3, c4 = (scaled(channels, width) for channels in (64, 128, 256, 512))
        self.encoders = nn.ModuleList(
            [double_convolution(in_channels, c1), double_convolution(c1, c2), double_convolution(c2, c3)]
        )
        self.dense = nn.ModuleList(
            [double_convolution(c3, c4), double_convolution(c4, c4), double_convolution(c4 + c4, c4)]
        )
        levels = [(c4, c3), (c3, c2), (c2, c1)]
        self.ups = nn.ModuleList(
            nn.Sequential(
                nn.ConvTranspose2d(below, c, 2, stride=2),
                # Keras' default epsilon, 1e-3, as in the authors' code.
                nn.BatchNorm2d(c, eps=1e-3, momentum=0.01),
                nn.ReLU(inplace=True),
            )
            for below, c in levels
        )
        self.fusions = nn.ModuleList(ConvLSTMPair(c, c // 2) for _, c in levels)
        self.decoders = nn.ModuleList(double_convolution(c // 2, c) for _, c in levels)
        self.last = nn.Sequential(nn.Conv2d(c1, 2, 3, padding=1), nn.ReLU(inplace=True))
        self.head = nn.Conv2d(2, 1, 1)
        self._start()

    def _start(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for fusion in self.fusions:
            fusion.start()  # type: ignore[operator]
        nn.init.ones_(self.last[0].bias)  # type: ignore[arg-type]
        nn.init.xavier_uniform_(self.head.weight)

    def logits(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W), H and W multiples of 8, to logits (N, 1, H, W)."""
        skips = []
        for encoder in self.encoders:
            features = encoder(x)
            skips.append(features)
            x = F.max_pool2d(features, 2)
        # Dropout applies only to the decoder's copy of the deepest skip, not to the pooled map.
        skips[-1] = self._dropout(skips[-1])
        a = self._dropout(self.dense[0](x))
        b = self._dropout(self.dense[1](a))
        y = self._dropout(self.dense[2](torch.cat([b, a], dim=1)))
        for up, fusion, decoder, skip in zip(self.ups, self.fusions, self.decoders, reversed(skips), strict=True):
            y = decoder(fusion(up(y), skip))
        logits: Tensor = self.head(self.last(y))
        return logits

    def _dropout(self, x: Tensor) -> Tensor:
        return F.dropout(x, DROPOUT, self.training)
