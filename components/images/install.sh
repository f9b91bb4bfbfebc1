#!/bin/sh
# Install Segline into the environment of an image, /opt/segline (install.sh [WHEEL]), and write its bill of materials.
set -eu
for wheel in "$@"; do
  /opt/tools/bin/uv pip install --quiet --python /opt/segline/bin/python --no-deps --compile-bytecode "$wheel"
done
mkdir -p /usr/share/segline
/opt/tools/bin/cyclonedx-py environment --output-reproducible --output-format JSON \
  --output-file /usr/share/segline/sbom.cdx.json /opt/segline/bin/python
