#!/bin/sh
# Remove what nobody runs from the libraries of an image, /opt/segline, and compile the rest to bytecode.
set -eu
packages=$(echo /opt/segline/lib/python3*/site-packages)
# Remove the tests of the largest libraries; numpy._core and torch import parts of their own, so these stay.
rm -rf "$packages"/pandas/tests "$packages"/pyarrow/tests "$packages"/pyarrow/include "$packages"/sklearn/tests
for library in scipy nibabel matplotlib networkx numpy/lib numpy/random numpy/f2py numpy/ma numpy/typing; do
  find "$packages/$library" -type d -name tests -prune -exec rm -rf {} + 2> /dev/null || true
done
# Remove Arrow's network protocol and sources, and two of three copies of a library that is loaded by the third's name.
rm -rf "$packages"/pyarrow/*flight* "$packages"/pyarrow/src "$packages"/pyarrow/*.pyx "$packages"/pyarrow/*.pxi \
  "$packages"/pyarrow/libarrow_python*.so "$packages"/pyarrow/libarrow_python*.so.*.*.*
# Remove the services of AWS except its object store and those for signing in.
find "$packages"/botocore/data -mindepth 1 -maxdepth 1 -type d \
  ! -name s3 ! -name sts ! -name sso ! -name sso-oidc ! -name signin -exec rm -rf {} +
/opt/segline/bin/python -m compileall -q -j 0 "$packages" || true   # the template of one library is not valid Python
