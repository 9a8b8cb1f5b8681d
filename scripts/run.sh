#!/usr/bin/env bash
# Run an experiment from a fresh checkout:  bash scripts/run.sh [overrides]
set -euo pipefail
unset CDPATH
here="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
(cd "$here" && source scripts/install.sh && install)
exec "$here/.venv/bin/python" -m lrexp "$@"
