# Sourced by run.sh and test.sh: a virtual environment in .venv with the project in it.
# Installs only when pyproject.toml, the versions that were tested together (or what is asked for)
# have changed since the last time.
#   install [EXTRA]      for example: install dev
install() {
  local extra="${1:-}" stamp locked=scripts/container/locked.txt
  if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    echo "creating .venv"
    "${PYTHON:-python3}" -m venv --clear .venv
  fi
  stamp=".venv/.installed${extra:+-$extra}"
  if ! cat pyproject.toml "$locked" | cmp -s - "$stamp"; then
    echo "installing lrexp (6 GB with torch; the first time takes 2 to 10 minutes)"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check \
      --constraint "$locked" --editable ".${extra:+[$extra]}"
    cat pyproject.toml "$locked" > "$stamp"
  fi
}
