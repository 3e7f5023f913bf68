#!/usr/bin/env bash
# Make the base image of the CPU builds where no registry can be reached: Debian 12 with its Python 3.11, under the name
# that an ordinary Dockerfile starts from. It trusts what this machine trusts, so that pip works behind its proxies too:
# an image to test with, not to publish.
#
# usage: containers/base_image.sh [NAME]     needs root, mmdebstrap, a running engine; DOCKER names another client
set -euo pipefail
name=${1:-python:3.11-slim}
docker=${DOCKER:-docker}
mirror=$(awk '/^URIs:/ { print $2; exit }' /etc/apt/sources.list.d/debian.sources 2>/dev/null || true)
authorities=/etc/ssl/certs/ca-certificates.crt

mmdebstrap --quiet --variant=minbase \
  --hook-dir=/usr/share/mmdebstrap/hooks/merged-usr --include=usr-is-merged \
  --include=ca-certificates,python3,python3-pip,python3-venv \
  --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
  --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-include=/usr/share/doc/*/copyright' \
  --customize-hook='ln -s /usr/bin/python3 "$1/usr/local/bin/python"' \
  --customize-hook="copy-in $authorities /etc/ssl/certs" \
  --customize-hook='printf "[global]\ncert = %s\n" '"$authorities"' > "$1/etc/pip.conf"' \
  --customize-hook='rm -rf "$1"/var/lib/apt/lists/* "$1"/var/cache/* "$1"/var/log/*' \
  bookworm - ${mirror:+"$mirror"} \
  | "$docker" import \
    --change 'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8' \
    --change 'CMD ["python3"]' - "$name"
