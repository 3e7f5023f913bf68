#!/usr/bin/env bash
# A Docker engine of the project's own, for a machine where none runs.
#
# usage: containers/engine.sh start FOLDER    install it if need be, start it, print its DOCKER_HOST; the folder gets all
#                                             it keeps. Exit status 69, and the reason, where it cannot run.
#        containers/engine.sh stop FOLDER     stop it and remove the folder
set -euo pipefail
folder=$(realpath -m "${2:?a folder}")

cannot() {
  echo "$1"
  exit 69
}

start() {
  [ "$(id -u)" = 0 ] || cannot "starting an engine needs root"
  if ! command -v dockerd > /dev/null || ! command -v mmdebstrap > /dev/null; then
    command -v apt-get > /dev/null || cannot "there is no dockerd, and no apt-get to install it with"
    { apt-get update && apt-get install -y --no-install-recommends docker.io mmdebstrap; } > "$folder.apt.log" 2>&1 \
      || cannot "docker.io and mmdebstrap cannot be installed: $(tail -n 1 "$folder.apt.log")"
    rm -f "$folder.apt.log"
  fi
  mkdir -p "$folder"
  # No bridge: steps in containers need no network, and builds use this machine's.
  setsid dockerd --host "unix://$folder/docker.sock" --data-root "$folder/data" --exec-root "$folder/exec" \
    --pidfile "$folder/pid" --iptables=false --bridge=none --ip-forward=false > "$folder/log" 2>&1 < /dev/null &
  for _ in $(seq 60); do
    sleep 0.5
    if DOCKER_HOST="unix://$folder/docker.sock" docker info > /dev/null 2>&1; then
      echo "unix://$folder/docker.sock"
      return
    fi
    kill -0 $! 2> /dev/null || break
  done
  reason=$(grep -v level=info "$folder/log" | tail -n 1 || true)
  stop
  cannot "dockerd does not start: $reason"
}

stop() {
  if [ -f "$folder/pid" ]; then
    pid=$(cat "$folder/pid")
    kill "$pid" 2> /dev/null || true
    for _ in $(seq 60); do
      kill -0 "$pid" 2> /dev/null || break
      sleep 0.5
    done
  fi
  # dockerd leaves a mount behind, which would keep the folder.
  awk -v folder="$folder/" 'index($2, folder) == 1 { print $2 }' /proc/mounts | sort -r | xargs --no-run-if-empty umount
  rm -rf --one-file-system "$folder"
}

case $1 in
  start) start ;;
  stop) stop ;;
  *) sed -n '2,/^set/p' "$0" | grep '^#'; exit 2 ;;
esac
