"""Millions of images on many machines: Ray Data reads Parquet, classifies batches, and writes Parquet.

python examples/ray_predict.py RUN IMAGES.parquet ANSWERS

The images' bytes are in a column `image`. Workers each load the run once; a batch whose worker dies is done again.
"""

import sys

import ray

from pini_jax import BatchClassifier


def main(run: str, images: str, answers: str, workers: int = 2) -> None:
    """Writes a row for every row of the images."""
    dataset = ray.data.read_parquet(images)
    classified = dataset.map_batches(
        BatchClassifier, fn_constructor_args=(run,), batch_size=64, concurrency=workers, max_restarts=3
    )
    classified.drop_columns(["image"]).write_parquet(answers)


if __name__ == "__main__":
    main(*sys.argv[1:])
