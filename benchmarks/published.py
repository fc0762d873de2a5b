"""Real weights of the Hub beside published figures: python -m benchmarks.published --data_dir=DATA --workdir=RUNS.

For a machine with a network, and with the datasets of CoOp's DATASETS.md in DATA; what is not there is a line that
says why. First examples with published probabilities, whose pictures are fetched. Then for every model and dataset
the accuracy of zero-shot CLIP on all test images, beside the published one, and of one training of `--config`.
Every line of the table has its source. It is printed as it comes; a second call goes on where the first stopped.

The published accuracies are open_clip's, which has an ensemble of prompts for each dataset and its own splits of
some. Here ImageNet has the same 80 prompts, and every other dataset one prompt and the split of CoOp, so that a
few points either way are no fault there. A training has `--views` cached views of each image; 0 is fresh ones in
every epoch, as in the paper. With --save the lines are also kept in results/published.json.
"""

from __future__ import annotations

import argparse
import json
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.special import expit, softmax

from benchmarks import timing
from pini_jax import config as configs
from pini_jax.clip import pretrained, prompts, zero_shot
from pini_jax.core import config_file, mesh, runtime
from pini_jax.core.errors import InputError
from pini_jax.data import features, views
from pini_jax.data.datasets.records import Record
from pini_jax.runs import experiment

RESULT = Path(__file__).parent / "results" / "published.json"
COLUMNS = ("what", "CLIP", "published", "here", "difference", "after training", "source")
TEMPLATES = {"imagenet": "imagenet_80"}  # every other dataset has CoOp's own


class Example(NamedTuple):
    """A picture whose probabilities were published.

    Attributes:
        picture: its address.
        published: of the first texts.
    """

    name: str
    clip: str
    picture: str
    texts: tuple[str, ...]
    published: tuple[float, ...]
    source: str


class Model(NamedTuple):
    """Weights whose zero-shot accuracies were published.

    Attributes:
        published: {dataset: accuracy}.
    """

    clip: str
    published: Mapping[str, float]
    source: str


DIAGRAM = "https://raw.githubusercontent.com/openai/CLIP/main/CLIP.png"
CATS = "http://images.cocodataset.org/val2017/000000039769.jpg"
OPEN_CLIP = "https://github.com/mlfoundations/open_clip/blob/main"
EXAMPLES = (
    Example(
        "OpenAI's diagram",
        "openai/clip-vit-base-patch32",
        DIAGRAM,
        ("a diagram", "a dog", "a cat"),
        (0.9927937, 0.00421068, 0.00299572),
        "https://github.com/openai/CLIP/blob/main/README.md",
    ),
    Example(
        "OpenAI's diagram",
        "laion/CLIP-ViT-B-32-laion2B-s34B-b79K",
        DIAGRAM,
        ("a diagram", "a dog", "a cat"),
        (1.0, 0.0, 0.0),  # in half precision
        f"{OPEN_CLIP}/README.md",
    ),
    Example(
        "two cats",
        "google/siglip-base-patch16-224",
        CATS,
        ("a photo of 2 cats", "a photo of 2 dogs"),
        (0.319,),
        "https://huggingface.co/docs/transformers/model_doc/siglip",
    ),
)
DATASETS = (
    *("imagenet", "caltech101", "oxford_pets", "stanford_cars", "oxford_flowers"),
    *("food101", "fgvc_aircraft", "sun397", "dtd", "eurosat"),
)


def _figures(*accuracies: float) -> dict[str, float]:
    return dict(zip(DATASETS, accuracies, strict=True))


# ViT-B-16 of `openai` and of `laion2b_s34b_b88k`, and ViT-B-16-SigLIP of `webli`.
MODELS = {
    "openai": Model(
        "openai/clip-vit-base-patch16",
        _figures(0.6834, 0.8901, 0.8886, 0.6477, 0.6907, 0.8872, 0.2421, 0.6435, 0.4495, 0.5594),
        f"{OPEN_CLIP}/docs/openclip_results.csv",
    ),
    "laion": Model(
        "laion/CLIP-ViT-B-16-laion2B-s34B-b88K",
        _figures(0.7023, 0.9287, 0.9048, 0.8848, 0.7084, 0.8663, 0.2695, 0.7085, 0.5633, 0.5346),
        f"{OPEN_CLIP}/docs/openclip_results.csv",
    ),
    "siglip": Model(
        "google/siglip-base-patch16-224",
        _figures(0.7604, 0.9518, 0.9420, 0.9081, 0.8549, 0.9162, 0.4377, 0.7001, 0.6468, 0.4428),
        f"{OPEN_CLIP}/docs/openclip_classification_results.csv",
    ),
}

# ------------------------------------------------------------------------------------------------ examples


def fetch(address: str, folder: Path) -> Path:
    """The picture at an address, fetched once.

    Raises:
        InputError: it cannot be fetched.
    """
    path = folder / address.rsplit("/", 1)[-1]
    if not path.exists():
        try:
            with urllib.request.urlopen(address, timeout=60) as answer:
                content = answer.read()
        except OSError as error:
            raise InputError(f"{address} cannot be fetched: {error}") from None
        folder.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return path


def probabilities(source: str, picture: Path, texts: Sequence[str]) -> list[float]:
    """Of each text; of a SigLIP each for itself, and of a CLIP one of them.

    Raises:
        InputError: the weights or the picture cannot be read.
    """
    clip = pretrained.load_clip(source)
    pixels = views.view_pixels(Record(picture.name, picture, 0), clip.preprocessing, None, 0, 0, 0)
    image = features.make_encoder(clip, mesh.make_mesh())(clip.preprocessing.normalise(pixels[None]))
    built = prompts.build(clip.tokenizer, "{}", texts, clip.text_tower.sizes)
    text = zero_shot.encode_classes(clip.text_tower, clip.theta, built)
    logits = np.asarray(zero_shot.cosine_logits(clip.theta, image[None, None], text))[0, 0, 0]
    return (expit if "logit_bias" in clip.theta else softmax)(logits.astype(np.float64)).tolist()


def show(example: Example, folder: Path) -> dict:
    """The line of an example."""
    row = dict(what=f"p({example.texts[0]}, ...), {example.name}", clip=example.clip, source=example.source)
    try:
        found = probabilities(example.clip, fetch(example.picture, folder), example.texts)
    except InputError as error:
        return row | dict(refused=str(error))
    return row | dict(published=list(example.published), here=found[: len(example.published)])


# ------------------------------------------------------------------------------------------------ datasets


def train(model: Model, dataset: str, chosen: argparse.Namespace) -> dict:
    """The line of a dataset."""
    row = dict(what=dataset, clip=model.clip, source=model.source)
    settings = config_file.load_config(chosen.config).to_dict() | dict(
        dataset=dataset,
        data_dir=chosen.data_dir,
        clip=model.clip,
        shots=chosen.shots,
        seed=chosen.seed,
        views=chosen.views,
        zero_shot_template=TEMPLATES.get(dataset, "coop"),
    )
    folder = Path(chosen.workdir, *(name.replace("/", "_") for name in (model.clip, dataset)))
    try:
        result = experiment.train_and_evaluate(configs.resolve(settings), folder)
    except InputError as error:
        return row | dict(refused=str(error))
    figures = [model.published[dataset]] if dataset in model.published else []
    here, after = result["zero_shot"]["accuracy"], result["test"]["mean"]["accuracy"]
    return row | dict(published=figures, here=[here], after=after)


def line(row: Mapping) -> list[str]:
    """Its cells."""
    if "refused" in row:
        return [row["what"], row["clip"], "", row["refused"], "", "", row["source"]]
    pairs = list(zip(row["published"], row["here"], strict=False))
    difference = max((ours - theirs for theirs, ours in pairs), key=abs) if pairs else None
    return [
        row["what"],
        row["clip"],
        " ".join(f"{x:.2%}" for x in row["published"]),
        " ".join(f"{x:.2%}" for x in row["here"]),
        f"{difference:+.2%}" if difference is not None else "",
        f"{row['after']:.2%}" if "after" in row else "",
        row["source"] if pairs else "",
    ]


def measure(chosen: argparse.Namespace) -> Iterator[dict]:
    """Every line, as it comes."""
    for example in EXAMPLES:
        yield show(example, Path(chosen.workdir) / "pictures")
    for name in chosen.models:
        for dataset in chosen.datasets:
            yield train(MODELS[name], dataset, chosen)


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the table, then one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", required=True, help="folder of the datasets")
    parser.add_argument("--workdir", required=True, help="folder of the runs and the pictures")
    parser.add_argument("--models", nargs="*", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--datasets", nargs="*", default=list(DATASETS))
    parser.add_argument("--config", default="paper", help="of the training")
    parser.add_argument("--shots", type=int, default=16)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--views", type=int, default=8)
    parser.add_argument("--save", action="store_true", help=f"keep the result in {RESULT.name}")
    chosen = parser.parse_args(arguments)
    runtime.prepare()
    head, rule = timing.table(COLUMNS, []).splitlines()
    print(head, rule, sep="\n", flush=True)
    found = timing.machine() | dict(shots=chosen.shots, config=chosen.config, views=chosen.views, rows=[])
    for row in measure(chosen):
        print(timing.table(line(row), []).splitlines()[0], flush=True)
        found["rows"].append(row)
        if chosen.save:
            timing.keep(RESULT, found, ("clip", "what"))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
