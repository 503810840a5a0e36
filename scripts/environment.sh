# Sourced by scripts/demo and scripts/test: makes the virtual environment and installs the project into it.
#
#   SPECTROVAE_STACK   default   TensorFlow 2.17 with tensorflow-io, on Linux and Python 3.10 to 3.12
#                      newest    the newest TensorFlow, without tensorflow-io
#   SPECTROVAE_PYTHON  the Python to use (python3)

stack=${SPECTROVAE_STACK:-default}
python=${SPECTROVAE_PYTHON:-python3}
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
environment=$root/.venv-$stack

case $stack in
default) extras="io ${extras:-}" ;;
newest) extras=${extras:-} ;;
*) echo "SPECTROVAE_STACK must be default or newest, received $stack" >&2; exit 2 ;;
esac
extras=$(tr -s ' ' , <<<"$extras" | sed 's/^,*//; s/,*$//')

"$python" - <<'END' || exit 2
import sys
if not (3, 10) <= sys.version_info[:2]:
    sys.exit(f"spectrovae needs Python 3.10 or newer, found {sys.version.split()[0]}; set SPECTROVAE_PYTHON to another")
END

# Installed once for each state of setup.cfg and choice of extras.
mark=$environment/.installed-$(cat "$root/setup.cfg" "$root/pyproject.toml" - <<<"$extras" | cksum | cut -d' ' -f1)
if [ ! -e "$mark" ]; then
    echo "setting up $environment (once; downloads about 1 GB)" >&2
    [ -x "$environment/bin/python" ] || "$python" -m venv "$environment" || exit 1
    "$environment/bin/python" -m pip install --quiet --disable-pip-version-check --editable "$root${extras:+[$extras]}" >&2 || exit 1
    touch "$mark"
fi
export PATH=$environment/bin:$PATH
export TF_CPP_MIN_LOG_LEVEL=${TF_CPP_MIN_LOG_LEVEL:-3}
cd "$root" || exit 1
