#!/bin/sh
# The libraries of an image's environment, /opt/segline, without what nobody runs, and with their bytecode.
set -eu
packages=$(echo /opt/segline/lib/python3*/site-packages)
# The tests of the largest; numpy and torch import parts of theirs.
rm -rf "$packages"/pandas/tests "$packages"/pyarrow/tests "$packages"/pyarrow/include "$packages"/sklearn/tests
find "$packages"/scipy "$packages"/nibabel "$packages"/matplotlib -type d -name tests -prune -exec rm -rf {} + 2> /dev/null || true
/opt/segline/bin/python -m compileall -q -j 0 "$packages" || true   # a template of a library is no Python
