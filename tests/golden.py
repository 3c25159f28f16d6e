"""The one table of golden numbers: what every registered variant must have, and the paper's own figures.

Plain data without torch, so that tests of both sides can read it: `from tests.golden import GOLDEN`.
"""

from __future__ import annotations

from dataclasses import dataclass

# The length of the longest path from the image to the logits; the paper's title.
DEPTH = 12


@dataclass(frozen=True)
class Golden:
    """Expected numbers of one variant.

    Parameters are counted to the unit: in training form, with the convolution branches merged (timm's
    `reparameterize_model`; what the paper's and the authors' counts are of) and fully fused. GFLOP are two per
    multiply-accumulate of convolutions and the linear layer, fully fused, one image of the card's size.
    """

    parameters_training: int
    parameters_reparameterized: int
    parameters_fused: int
    gflop_fused: float
    # Reported elsewhere: tables 2, 6 and 8 of the paper (parameters in millions, GFLOP), and GFLOP of the authors'
    # code measured with its convolutions merged.
    paper_parameters_millions: float | None = None
    paper_gflop: float | None = None
    authors_gflop: float | None = None


GOLDEN: dict[str, Golden] = {
    "parnet_s": Golden(20_983_848, 19_177_032, 19_259_400, 9.677),
    "parnet_m": Golden(38_953_256, 35_576_616, 35_719_208, 17.168),
    "parnet_l": Golden(60_180_008, 54_914_824, 55_134_024, 26.653, 54.9, 26.7, 26.64),
    "parnet_xl": Golden(93_176_168, 84_962_784, 85_300_784, 41.437, 85.0, 41.5, 41.42),
    "parnet_m_onestream": Golden(39_340_008, 35_933_208, 35_936_664, 9.808, 36.0),
    "parnet_m_twostream": Golden(39_764_040, 36_315_084, 36_322_212, 13.781),
    "parnet_m_fourstream": Golden(39_226_152, 35_823_784, 36_034_216, 21.333),
    "parnet_cifar_s": Golden(1_426_282, 1_297_482, 1_308_394, 0.3106, 1.3),
    "parnet_cifar_m": Golden(17_023_962, 15_489_706, 15_599_578, 3.7466, 15.5),
    "parnet_cifar_l": Golden(38_404_354, 34_964_410, 35_204_482, 8.4408, 35.0),
    "parnet_nano": Golden(355_258, 321_898, 325_306, 0.0776),
    "parnet_pico": Golden(622_008, 574_792, 578_280, 0.2790),
}
