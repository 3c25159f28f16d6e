"""`README.md` of a Hugging Face Hub repository: the model card, with the metadata that the Hub reads."""

from __future__ import annotations

import yaml

from parnet_deploy.artifacts.schemas import Card
from parnet_deploy.models.hub_config import HubConfig

_USE = """\
## Use

The networks are registered with timm by `parnet-deploy`:

    import timm
    import parnet_deploy.models

    model = timm.create_model("hf-hub:USER/NAME", pretrained=True).eval()

To fuse, split and build it: `parnet-deploy import hf-hub:USER/NAME -o parnet.safetensors`.
"""


def model_card(card: Card, config: HubConfig, parameters: int, *, license_id: str | None) -> str:
    """Return the model card; `license_id` is the Hub's identifier of the weights' licence, such as `bsd-3-clause`."""
    metadata = {"library_name": "timm", "pipeline_tag": "image-classification"}
    if license_id is not None:
        metadata["license"] = license_id
    front = yaml.safe_dump({**metadata, "tags": ["image-classification", "timm", "parnet"]}, sort_keys=False)
    made_from = "" if card.parent is None else f"`{card.parent.name}`, sha256 `{card.parent.sha256}`"
    facts = {
        "timm model": f"`{config.architecture}`, arguments `{config.model_args}`",
        "form": card.form,
        "parameters": f"{parameters:,}",
        "input": "x".join(map(str, card.preprocessing.input_size)),
        "classes": str(config.num_classes),
        "activation": card.network.activation,
        "made by": str(card.origin.get("made_by", "")),
        "made from": made_from,
        "weights": f"`{card.weights.sha256}` (sha256)",
        **{name: f"{value:.6g}" for name, value in sorted(card.metrics.items())},
    }
    rows = "\n".join(f"| {name} | {value} |" for name, value in facts.items() if value)
    title = "# ParNet for image classification"
    paper = "[Non-deep Networks](https://arxiv.org/abs/2110.07641), as made by `parnet-deploy`."
    return f"---\n{front}---\n\n{title}\n\n{paper}\n\n| | |\n| --- | --- |\n{rows}\n\n{_USE}"
