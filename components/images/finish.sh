#!/bin/sh
# Finish the environment /opt/segline of an image: its bill of materials, less of what nobody runs, and bytecode.
set -eu
mkdir -p /usr/share/segline
/opt/tools/bin/cyclonedx-py environment --output-reproducible --output-format JSON \
  --output-file /usr/share/segline/sbom.cdx.json /opt/segline/bin/python
packages=$(echo /opt/segline/lib/python3*/site-packages)
# The tests of the largest libraries; numpy and torch import parts of theirs.
rm -rf "$packages"/pandas/tests "$packages"/pyarrow/tests "$packages"/pyarrow/include "$packages"/sklearn/tests
find "$packages"/scipy "$packages"/nibabel "$packages"/matplotlib -type d -name tests -prune -exec rm -rf {} + 2> /dev/null || true
/opt/segline/bin/python -m compileall -q -j 0 "$packages" || true   # a template of a library is no Python
