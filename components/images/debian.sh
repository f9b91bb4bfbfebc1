#!/bin/sh
# Make a base image from Debian's packages, for a machine without an image registry: debian.sh <docker|podman> <name>.
# DEBIAN_MIRROR names another mirror; the image trusts the authorities in SSL_CERT_FILE, if that is set.
set -eu
engine=$1 name=$2
[ "$(id -u)" = 0 ] || { echo "make base: debootstrap must run as root; use sudo make base" >&2; exit 1; }
command -v debootstrap > /dev/null || { echo "make base: no debootstrap; run apt-get install debootstrap" >&2; exit 1; }
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
trap 'exit 1' HUP INT TERM   # without it dash would skip the line above
debootstrap --variant=minbase --include=ca-certificates,python3,python3-venv bookworm "$root" \
  "${DEBIAN_MIRROR:-http://deb.debian.org/debian}"
[ -z "${SSL_CERT_FILE:-}" ] || cat "$SSL_CERT_FILE" > "$root/etc/ssl/certs/ca-certificates.crt"
rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/var/log/* "$root"/usr/share/doc/* \
  "$root"/usr/share/man/* "$root"/usr/share/locale/*
tar -C "$root" -c . | "$engine" import - "$name"
