"""The authors' release: which weights there are, and under which names.

The release is a GitHub page that could not be opened while this was written. Its address and tag are the authors' own
(`imagenet/README.md` of their repository); the names of the files are those that their commands for validation pass to
`--checkpoint`, so a name may differ from the asset's. No hashes are published.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from parnet_deploy.errors import DownloadError

REPOSITORY: Final = "https://github.com/imankgoyal/NonDeepNetworks"
TAG: Final = "v.0.1.0"
RELEASE_PAGE: Final = f"{REPOSITORY}/releases/tag/{TAG}"
DOWNLOAD_URL: Final = f"{REPOSITORY}/releases/download/{TAG}"

_XL = "planes_200_400_800_3200_num_blocks_5_6_6_1_sebv_13_dropout_lin.pth.tar"


@dataclass(frozen=True)
class ReleasedWeights:
    """Weights of the release; `named_in` is the authors' file that names `asset`, `resolution` is in pixels."""

    name: str
    asset: str
    named_in: str
    resolution: int = 224


# The authors' two scripts disagree on which of the first two XL files was trained for 120 epochs and which for 200.
_WEIGHTS = (
    ReleasedWeights(
        "parnet_s", "planes_92_192_384_1280_num_blocks_5_6_6_1_sebv_13.pth.tar", "imagenet/validate_models.sh"
    ),
    ReleasedWeights(
        "parnet_m", "planes_128_256_512_2048_num_blocks_5_6_6_1_sebv_13.pth.tar", "imagenet/validate_models.sh"
    ),
    ReleasedWeights(
        "parnet_l",
        "planes_160_320_640_2560_num_blocks_5_6_6_1_sebv_13_dropout_lin.pth.tar",
        "imagenet/validate_models.sh",
    ),
    ReleasedWeights("parnet_xl", f"reg_se13_cosine_{_XL}", "imagenet/README.md"),
    ReleasedWeights("parnet_xl_reg_se13", f"reg_se13_{_XL}", "imagenet/validate_models.sh"),
    ReleasedWeights(
        "parnet_xl_352",
        "ft2_init_lr_0.001_cosine_epoch_16_is_320_we_0.0_zero_init_head_2_scale_0.5_1.0_mixup_0.1_reprob_0.6.pth.tar",
        "imagenet/README.md",
        resolution=352,
    ),
)
RELEASED: Final = {weights.name: weights for weights in _WEIGHTS}


def find_released(name: str) -> ReleasedWeights:
    """Return the released weights that `parnet-l`, `parnet_l` or `ParNet-L` names.

    Raises:
        DownloadError: no such weights were released.
    """
    found = RELEASED.get(name.lower().replace("-", "_"))
    if found is None:
        raise DownloadError(
            f"no released weights {name!r}",
            remedy=f"one of: {', '.join(RELEASED)}; random ones of any variant come from: parnet-deploy init",
        )
    return found
