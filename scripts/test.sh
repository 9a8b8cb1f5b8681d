#!/usr/bin/env bash
# Everything a change must pass: lint, format, types, tests.  bash scripts/test.sh [pytest options]
set -euo pipefail
unset CDPATH
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/install.sh
install dev
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/basedpyright
.venv/bin/python -m pytest --numprocesses 2 --dist worksteal "$@"
