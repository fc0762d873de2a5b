#!/usr/bin/env bash
# From a folder of class folders to a report: examples/photos.sh FOLDER [SETTING ...]
#
#     examples/photos.sh photos --config.clip=openai/clip-vit-base-patch16
#
# Settings are those of `pini train`. Runs lie in runs/photos: one and four images of each class, with two selections of each.
set -euo pipefail
folder=$1
shift

pini check --dataset="folder:$folder"
pini sweep --config="folder:path=$folder" --shots=1,4 --seeds=1,2 --workdir=runs/photos "$@"
pini report runs/photos
pini predict --workdir=runs/photos/shots_4-seed_1 "$(find "$folder" -type f | sort | head -1)"
