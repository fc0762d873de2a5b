"""The paper's whole few-shot protocol in one sweep: 11 datasets x 1, 2, 4, 8, 16 shots x seeds 1 to 3 = 165 runs.

    pini sweep plan --config=paper_sweep:data_dir=/data --workdir=runs/paper
    pini sweep run --workdir=runs/paper

The second command is started on as many machines as there are; they share the work through the workdir. The data
lie in the folders of CoOp's DATASETS.md. The method is the released configuration, as in `paper`. Expected: eleven
units of 15 runs, one for each dataset; published figures need the published images and weights.
"""

import itertools

from pini_jax.config import default, with_arguments
from pini_jax.data.datasets.coop import OTHERS


def get_config(arguments: str = ""):
    return with_arguments(default(), arguments)


def sweep():
    for dataset, shots, seed in itertools.product(("imagenet", *OTHERS), (1, 2, 4, 8, 16), (1, 2, 3)):
        yield {"dataset": dataset, "shots": shots, "seed": seed}
