#!/usr/bin/env bash
# What CI does with containers: build both images for the CPU and run the tests marked `docker` in them, on the engine
# that answers here or else on one of its own. Needs no registry. Skipped, loudly, only where no engine can run.
set -euo pipefail
cd "$(dirname "$0")/.."
export DOCKER=docker

if ! docker info > /dev/null 2>&1; then
  folder=$(mktemp -d "${TMPDIR:-/tmp}/rlhf-engine-XXXXXX")
  trap 'containers/engine.sh stop "$folder"' EXIT
  if ! host=$(containers/engine.sh start "$folder"); then
    printf '\n%s\n\n' "########## SKIPPED: the images and their tests, for no Docker engine can run here: $host ##########"
    exit 0
  fi
  # Another client may come first on the PATH that cannot build for the engine that was installed.
  export DOCKER_HOST=$host DOCKER=/usr/bin/docker BUILD_FLAGS="--network=host --quiet"
fi

base=python:3.11-slim
"$DOCKER" image inspect "$base" > /dev/null 2>&1 || timeout 300 "$DOCKER" pull --quiet "$base" 2> /dev/null \
  || containers/base_image.sh "$base"
# A folder of wheels that pip searches here is not there inside a build, so it goes in as an image.
if [ -d "${PIP_FIND_LINKS:-}" ]; then
  export TORCH_WHEELS=rlhf-pipelines/wheels:local
  tar -C "$PIP_FIND_LINKS" -c . | "$DOCKER" import - "$TORCH_WHEELS"
fi
make images CPU=1
make test-images
