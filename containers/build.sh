#!/usr/bin/env bash
# Build the images, tagged with the package version: `make images`.
#
# usage: containers/build.sh [light] [trainer]
#   CPU=1         a trainer for machines without a GPU: a plain Python base and the CPU build of torch
#   RUN_AS        the user of the steps, such as 0 for root; 10001:0 when empty
#   EXTRAS        of the trainer, separated by blanks; `EXTRAS="train gemini vllm"` adds vLLM
#   TORCH_WHEELS  an image with torch's wheel in its root, where no index with the CPU build can be reached
#   BUILD_FLAGS   more flags for `docker build`; DOCKER names another client
set -euo pipefail
cd "$(dirname "$0")/.."
docker=${DOCKER:-docker}
read -ra flags <<< "${BUILD_FLAGS:-}"
if [ -n "${RUN_AS:-}" ]; then flags+=(--build-arg "RUN_AS=$RUN_AS"); fi
if [ -n "${EXTRAS:-}" ]; then trainer_flags=(--build-arg "EXTRAS=$EXTRAS"); else trainer_flags=(); fi
if [ -n "${CPU:-}" ]; then
  trainer_flags+=(--build-arg BASE_IMAGE=python:3.11-slim)
  if [ -n "${TORCH_WHEELS:-}" ]; then
    trainer_flags+=(--build-arg "TORCH_WHEELS=$TORCH_WHEELS")
  else
    trainer_flags+=(--build-arg TORCH_INDEX=https://download.pytorch.org/whl/cpu)
  fi
fi
revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)
for kind in ${@:-light trainer}; do
  tag=$(PYTHONPATH=src python3 -c "from rlhf_tuning import images; print(images.IMAGES['$kind'])")
  if [ "$kind" = trainer ]; then flags+=("${trainer_flags[@]}"); fi
  DOCKER_BUILDKIT=1 "$docker" build "${flags[@]}" --file "containers/$kind/Dockerfile" \
    --build-arg "VERSION=${tag##*:}" --build-arg "REVISION=$revision" --tag "$tag" .
done
