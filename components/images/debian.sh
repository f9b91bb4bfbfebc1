#!/bin/sh
# A base image from Debian's packages, for machines that reach no image registry: debian.sh <docker|podman> <name>.
# DEBIAN_MIRROR names another mirror; the authorities in SSL_CERT_FILE, if set, are those that the image trusts.
set -eu
engine=$1 name=$2
[ "$(id -u)" = 0 ] || { echo "make base: debootstrap has to run as root; say sudo make base" >&2; exit 1; }
command -v debootstrap > /dev/null || { echo "make base: no debootstrap; apt-get install debootstrap" >&2; exit 1; }
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
trap 'exit 1' HUP INT TERM   # without it dash leaves out the line above
debootstrap --variant=minbase --include=ca-certificates,python3,python3-venv bookworm "$root" \
  "${DEBIAN_MIRROR:-http://deb.debian.org/debian}"
[ -z "${SSL_CERT_FILE:-}" ] || cat "$SSL_CERT_FILE" > "$root/etc/ssl/certs/ca-certificates.crt"
rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/var/log/* "$root"/usr/share/doc/* \
  "$root"/usr/share/man/* "$root"/usr/share/locale/*
tar -C "$root" -c . | "$engine" import - "$name"
