#!/usr/bin/env bash
# Everything a change must pass: lint, format, types, tests.  bash scripts/test.sh [pytest options]
# Says what the tests took. With LREXP_TEST_BUDGET=1 they fail when that is too much: see cpu_budget.py.
set -euo pipefail
unset CDPATH
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/install.sh
install dev
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/basedpyright
.venv/bin/python scripts/cpu_budget.py \
  .venv/bin/python -m pytest --numprocesses 2 --dist loadfile "$@"
