# Sourced by the scripts beside it: makes .venv once, and again when what it holds has changed.
# With venv, constraints and extras set, it makes that environment instead.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

venv=${venv:-.venv} constraints=${constraints:-scripts/constraints.txt} extras=${extras:-test,dev}
fingerprint=$(cat setup.cfg pyproject.toml "$constraints" | sha256sum)
if [[ "$(cat "$venv/fingerprint" 2>/dev/null)" != "$fingerprint" ]]; then
    python=${PYTHON:-python3}
    if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
        echo "needs Python 3.11 or later; name one with PYTHON=/path/to/python" >&2
        exit 2
    fi
    echo "setting up $venv (once) ..." >&2
    "$python" -m venv "$venv" >&2
    "$venv/bin/python" -m pip install -qq --disable-pip-version-check \
        --constraint "$constraints" --editable ".[$extras]" >&2
    echo "$fingerprint" > "$venv/fingerprint"
fi
