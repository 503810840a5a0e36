#!/usr/bin/env bash
# Installs a Chromium for the tests of the pages where none is found, and root and apt-get are there. Where it cannot,
# it says so and the tests are skipped; SPECTROVAE_CHROMIUM names one that is elsewhere.
set -uo pipefail

for name in "${SPECTROVAE_CHROMIUM:-}" chromium-headless-shell chromium chromium-browser google-chrome chrome; do
    [ -n "$name" ] && command -v "$name" >/dev/null && exit 0
done
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "no Chromium found: the tests of the pages are skipped (as root, apt-get install chromium)" >&2
    exit 0
fi
echo "installing Chromium for the tests of the pages (once; about 100 MB)" >&2
export DEBIAN_FRONTEND=noninteractive
options=(-qq -o Acquire::Retries=2 -o Acquire::http::Timeout=20 -o DPkg::Lock::Timeout=120)
log=$(mktemp)
{
    apt-get "${options[@]}" update
    # The shell is the smaller; not every distribution has it.
    apt-get "${options[@]}" install --yes --no-install-recommends chromium-headless-shell ||
        apt-get "${options[@]}" install --yes --no-install-recommends chromium
} >"$log" 2>&1 || { echo "Chromium could not be installed; the tests of the pages are skipped:" >&2; tail -n 3 "$log" >&2; }
rm -f "$log"
