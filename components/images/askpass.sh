#!/bin/sh
# Answer git when a repository requires a login: askpass.sh "Username for ..." or "Password for ...".
case $1 in
  Username*) echo "${SEGLINE_GIT_USERNAME:-}" ;;
  *) echo "${SEGLINE_GIT_PASSWORD:-}" ;;
esac
