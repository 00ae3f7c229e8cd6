#!/usr/bin/env bash
# The browser for the tests of the page: Debian's chromium, where it can be installed. Says what it did; never fails for the
# lack of it, because the tests themselves say whether they can do without (they must not where CI=true).
set -euo pipefail
if found=$(command -v chromium || command -v google-chrome); then
    echo "chromium: $found"
elif [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null; then
    apt-get update -qq && apt-get install -qq -y --no-install-recommends chromium >/dev/null && echo "chromium: installed"
else
    echo "chromium: not here; to test the page, install it (Debian, Ubuntu: sudo apt install chromium)"
fi
