#!/bin/sh
# The libraries of an image's environment, /opt/segline, without what nobody runs, and with their bytecode.
set -eu
packages=$(echo /opt/segline/lib/python3*/site-packages)
# The tests of the largest; numpy._core and torch import parts of theirs.
rm -rf "$packages"/pandas/tests "$packages"/pyarrow/tests "$packages"/pyarrow/include "$packages"/sklearn/tests
for library in scipy nibabel matplotlib networkx numpy/lib numpy/random numpy/f2py numpy/ma numpy/typing; do
  find "$packages/$library" -type d -name tests -prune -exec rm -rf {} + 2> /dev/null || true
done
# Of Arrow its network protocol, its sources, and two of three copies of a library that is loaded by the third's name.
rm -rf "$packages"/pyarrow/*flight* "$packages"/pyarrow/src "$packages"/pyarrow/*.pyx "$packages"/pyarrow/*.pxi \
  "$packages"/pyarrow/libarrow_python*.so "$packages"/pyarrow/libarrow_python*.so.*.*.*
# The services of AWS but for its object store and the ways to sign in.
find "$packages"/botocore/data -mindepth 1 -maxdepth 1 -type d \
  ! -name s3 ! -name sts ! -name sso ! -name sso-oidc ! -name signin -exec rm -rf {} +
/opt/segline/bin/python -m compileall -q -j 0 "$packages" || true   # a template of a library is no Python
